//! The tables of Services, against a kernel in memory.

mod counters;
mod kernel;
mod limits;
mod plans;
mod sequences;
