//! Everything that is not the cluster's: asked of others, and remembered.
