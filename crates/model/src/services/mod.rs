//! Services: from what the API says to what a node serves.

mod plan;

pub use plan::{
    BackendKey, BackendState, Choice, Frontend, FrontendKind, ServiceKey, ServicePortKey, ServicePortPlan,
    WhenEmpty,
};
