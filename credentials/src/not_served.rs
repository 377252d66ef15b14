//! Why a resource is not served as its spec says, as condition reason and message.

use mcp_auth_crds::reasons;
use thiserror::Error;

#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{message}")]
pub struct NotServedError {
    kind: NotServedReason,
    message: String,
}

/// Each is a condition's reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotServedReason {
    /// An older resource has the server name for the same pods.
    Conflict,
    /// What a reference names is being read.
    Pending,
    Forbidden,
    /// The administrator's policy forbids it.
    NotAllowed,
    /// Beyond the administrator's limits: what works goes on.
    LimitExceeded,
    InvalidSpec,
    SecretNotFound,
    SecretKeyNotFound,
    SecretInvalid,
    ConfigMapNotFound,
    ConfigMapKeyNotFound,
    ConfigMapInvalid,
}

impl NotServedError {
    pub fn new(kind: NotServedReason, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub fn reason(&self) -> &'static str {
        match self.kind {
            NotServedReason::Conflict => reasons::CONFLICT,
            NotServedReason::Pending => reasons::PENDING,
            NotServedReason::Forbidden => reasons::FORBIDDEN,
            NotServedReason::NotAllowed => reasons::NOT_ALLOWED,
            NotServedReason::LimitExceeded => reasons::LIMIT_EXCEEDED,
            NotServedReason::InvalidSpec => reasons::INVALID_SPEC,
            NotServedReason::SecretNotFound => reasons::SECRET_NOT_FOUND,
            NotServedReason::SecretKeyNotFound => reasons::SECRET_KEY_NOT_FOUND,
            NotServedReason::SecretInvalid => reasons::SECRET_INVALID,
            NotServedReason::ConfigMapNotFound => reasons::CONFIG_MAP_NOT_FOUND,
            NotServedReason::ConfigMapKeyNotFound => reasons::CONFIG_MAP_KEY_NOT_FOUND,
            NotServedReason::ConfigMapInvalid => reasons::CONFIG_MAP_INVALID,
        }
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether another resource is served instead, whatever the references hold.
    pub fn is_conflict(&self) -> bool {
        self.kind == NotServedReason::Conflict
    }

    /// Whether it is one too many, or too large: what it refers to is not looked at.
    pub fn is_limit(&self) -> bool {
        self.kind == NotServedReason::LimitExceeded
    }

    /// Whether not even the token that there is may be used any more.
    pub fn ends_use(&self) -> bool {
        matches!(self.kind, NotServedReason::Conflict | NotServedReason::NotAllowed)
    }

    /// Whether it is not known yet, since a reference is still being read.
    pub fn is_pending(&self) -> bool {
        self.kind == NotServedReason::Pending
    }
}
