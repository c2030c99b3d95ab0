//! The WebSocket protocol `oriva.v1`: frames from clients, frames to clients, close codes.

mod client;
mod close;
mod deflate;
mod event_frame;
mod server;

pub use client::{ClientFrame, FrameError, FrameId, parse_client_frame};
pub use close::{AfterClose, Close};
#[cfg(feature = "echo")]
pub(crate) use deflate::deflated;
pub(crate) use deflate::inflate;
pub use event_frame::PublishedEvent;
#[cfg(feature = "echo")]
pub(crate) use server::binary_frame;
pub use server::{ServerFrame, close_frame, frame_text, ping_frame, pong_frame, text_frame};
pub(crate) use server::{bare_close_frame, close_frame_with};
