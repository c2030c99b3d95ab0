//! `/api/v1/admin`: the operator's routes. The command line does the same.

pub mod apps;
pub mod audit;
pub mod keys;
pub mod stats;
