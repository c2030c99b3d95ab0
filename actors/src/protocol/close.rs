//! The one table of close codes: number, reason, and what the client should do next (contract §5).

/// Why the hub closes a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Close {
    /// The client asked for the close; its own code is answered.
    Normal,
    /// The hub is stopping or draining.
    GoingAway,
    /// The client broke RFC 6455.
    Protocol,
    /// A binary frame. The stream takes only text.
    Unsupported,
    /// Text that is not UTF-8 (RFC 6455 §8.1), or a compressed message that cannot be inflated.
    InvalidData,
    /// A message over `stream.max_frame_bytes`.
    TooBig,
    /// The hub failed. A reconnect with `after` replays what was missed.
    Internal,
    /// The credential is wrong or has expired.
    TokenExpired,
    /// The key was revoked or the app is not active.
    Revoked,
    /// The backlog passed `stream.max_backlog_bytes`.
    TooSlow,
    /// Nothing came from the client for two heartbeat periods.
    NoHeartbeat,
    /// `stream.max_connections` are open already.
    TooManyConnections,
    /// A parameter of the address is unknown or faulty.
    BadAddress,
}

/// What a client should do after a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterClose {
    /// Reconnect after a pause with jitter, with `after`.
    Reconnect,
    /// As `Reconnect`, but the first pause is 15 s, and each doubles to 5 min.
    ReconnectSlowly,
    /// Get a new token, then reconnect.
    RefreshAndReconnect,
    /// Do not reconnect until a person or the program has changed something.
    Stop,
}

impl Close {
    /// Every reason, for the documents and their tests.
    pub const ALL: [Self; 13] = [
        Self::Normal,
        Self::GoingAway,
        Self::Protocol,
        Self::Unsupported,
        Self::InvalidData,
        Self::TooBig,
        Self::Internal,
        Self::TokenExpired,
        Self::Revoked,
        Self::TooSlow,
        Self::NoHeartbeat,
        Self::TooManyConnections,
        Self::BadAddress,
    ];

    const fn row(self) -> (u16, &'static str, AfterClose) {
        use AfterClose::{Reconnect, ReconnectSlowly, RefreshAndReconnect, Stop};
        match self {
            Self::Normal => (1000, "closed", Stop),
            Self::GoingAway => (1001, "hub is stopping; reconnect with jitter", Reconnect),
            Self::Protocol => (1002, "protocol error", Reconnect),
            Self::Unsupported => (1003, "binary frames are not accepted", Reconnect),
            Self::InvalidData => (1007, "text is not UTF-8, or does not inflate", Reconnect),
            Self::TooBig => (1009, "message too big", Reconnect),
            Self::Internal => (1011, "internal error; reconnect with after", Reconnect),
            Self::TokenExpired => (4001, "credential refused or expired", RefreshAndReconnect),
            Self::Revoked => (4003, "revoked, or app not active", Stop),
            Self::TooSlow => (4008, "too slow; reconnect with after", Reconnect),
            Self::NoHeartbeat => (4010, "no heartbeat answer", Reconnect),
            Self::TooManyConnections => (4029, "too many connections; come back slowly", ReconnectSlowly),
            Self::BadAddress => (4400, "a parameter of the address is unknown or faulty", Stop),
        }
    }

    /// The WebSocket close code.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.row().0
    }

    /// At most 123 bytes (RFC 6455 §5.5).
    #[must_use]
    pub const fn reason(self) -> &'static str {
        self.row().1
    }

    /// What a client does next.
    #[must_use]
    pub const fn then(self) -> AfterClose {
        self.row().2
    }

    /// What a client does after a close with this code. A number that is not in the table is judged by its range (contract §5).
    #[must_use]
    pub fn after_code(code: u16) -> AfterClose {
        match Self::ALL.into_iter().find(|close| close.code() == code) {
            Some(close) => close.then(),
            None if code < 2000 || (4000..4100).contains(&code) => AfterClose::Reconnect,
            None => AfterClose::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_fits_a_control_frame_and_every_code_is_its_own() {
        let mut codes: Vec<u16> = Close::ALL.iter().map(|close| close.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Close::ALL.len());
        assert!(Close::ALL.iter().all(|close| close.reason().len() <= 123));
    }

    #[test]
    fn unknown_codes_are_read_by_their_range() {
        assert_eq!(Close::after_code(4003), AfterClose::Stop);
        assert_eq!(Close::after_code(4050), AfterClose::Reconnect);
        assert_eq!(Close::after_code(1012), AfterClose::Reconnect);
        assert_eq!(Close::after_code(4500), AfterClose::Stop);
    }
}
