//! `/api/v1/admin`: what the operator does, as the command line does it.

pub mod apps;
pub mod audit;
pub mod keys;
pub mod stats;
