//! Sync errors: why there is no stream from the operator, or no answer.

use std::io;
use std::path::PathBuf;

use http::StatusCode;
use mcp_auth_protocol::bounds::MAX_SNAPSHOT_BYTES;
use mcp_auth_protocol::reasons::NOT_LEADING;
use mcp_auth_protocol::sync::Problem;
use tokio_util::codec::LinesCodecError;

/// The reason where no connection comes about: another attempt may lead to another replica.
pub const UNREACHABLE: &str = "OperatorUnreachable";

/// The reason where a refusal has none that can be read, as those of the operator do.
pub const UNKNOWN: &str = "Unknown";

/// Why a stream ended or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error(
        "the token file {path} cannot be read ({kind}); it is mounted by the injection webhook",
        path = path.display()
    )]
    TokenUnreadable { path: PathBuf, kind: io::ErrorKind },
    #[error("the token file {path} holds no token", path = path.display())]
    TokenInvalid { path: PathBuf },
    #[error("the certificates to verify the operator by are no valid PEM certificates ({0})")]
    OperatorCaInvalid(String),
    #[error("{address} cannot be reached: {error}")]
    Unreachable { address: String, error: io::Error },
    #[error("no TLS connection with {address}: {error}")]
    Tls { address: String, error: io::Error },
    #[error("no connection with {address} within {seconds} s")]
    ConnectTimeout { address: String, seconds: u64 },
    #[error("the operator refuses with {status}: {}: {}", problem.reason, problem.message)]
    Refused { status: StatusCode, problem: Problem },
    #[error("nothing from the operator for {seconds} s")]
    Silent { seconds: u64 },
    #[error("the operator ended the stream")]
    Ended,
    #[error("the operator sent a line longer than {} bytes", MAX_SNAPSHOT_BYTES)]
    LineTooLong,
    #[error(
        "the operator sent a line that is no snapshot ({0}); sidecar and operator may be of different \
         versions"
    )]
    NotASnapshot(&'static str),
    #[error(
        "the operator sent a change of a snapshot that this stream does not have; connecting again for the whole"
    )]
    OtherBase,
    #[error("HTTP with the operator failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("the connection with the operator broke: {0}")]
    Broken(io::Error),
}

impl From<io::Error> for SyncError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Its process has ended without TLS's word of the end.
            io::ErrorKind::UnexpectedEof => Self::Ended,
            _ => Self::Broken(error),
        }
    }
}

impl From<LinesCodecError> for SyncError {
    fn from(error: LinesCodecError) -> Self {
        match error {
            LinesCodecError::MaxLineLengthExceeded => Self::LineTooLong,
            // The codec does no input or output of its own: only the text can be wrong.
            LinesCodecError::Io(_) => Self::NotASnapshot("no UTF-8 text"),
        }
    }
}

impl SyncError {
    /// Whether something between the operator and this sidecar may have refused a request only for its `Upgrade`: the operator
    /// itself says why it refuses, and without a valid token nothing else is asked.
    pub fn may_be_of_upgrade(&self) -> bool {
        let Self::Refused { status, problem } = self else {
            return false;
        };
        problem.reason == UNKNOWN && !matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    pub fn reason(&self) -> &'static str {
        match self {
            Self::TokenUnreadable { .. } | Self::TokenInvalid { .. } => "TokenUnreadable",
            Self::OperatorCaInvalid(_) => "OperatorCaInvalid",
            Self::Unreachable { .. } | Self::ConnectTimeout { .. } => UNREACHABLE,
            // What TLS itself refuses is of this kind; else the connection broke, as of a replica that has just gone.
            Self::Tls { error, .. } if error.kind() == io::ErrorKind::InvalidData => "OperatorNotTrusted",
            Self::Tls { .. } => UNREACHABLE,
            Self::Refused { .. } => "OperatorRefused",
            Self::Silent { .. } => "OperatorSilent",
            Self::Ended | Self::Http(_) | Self::Broken(_) => "StreamBroken",
            Self::LineTooLong | Self::NotASnapshot(_) | Self::OtherBase => "StreamInvalid",
        }
    }

    /// Whether a replica answered that does not lead: another connection may reach the one that does.
    pub fn is_of_follower(&self) -> bool {
        matches!(self, Self::Refused { problem, .. } if problem.reason == NOT_LEADING)
    }

    pub fn to_problem(&self) -> Problem {
        Problem::new(self.reason(), self.to_string())
    }
}
