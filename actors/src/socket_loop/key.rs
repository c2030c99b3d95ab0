//! The name of a socket within its socket loop.

slotmap::new_key_type! {
    /// One socket of one socket loop. A key may outlive its socket; what is pushed to it then is dropped.
    pub(crate) struct SocketKey;
}
