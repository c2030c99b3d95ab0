//! oriva-hub: the realtime hub that a platform of many apps runs for its users. See ARCHITECTURE.md.

pub mod store;
