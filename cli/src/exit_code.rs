//! Exit codes: a closed set, listed in `docs/cli.md`.

use std::process::ExitCode;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExitStatus {
    /// All is well, or what was asked for has been printed.
    Success,
    /// The command did its work and found a fault.
    FaultFound,
    /// The command line cannot be used. clap ends the program with it.
    Usage,
    /// No kubeconfig, no answer, or an error of the API server.
    ClusterUnusable,
    /// The cluster does not take the credentials, or they do not allow what is needed.
    NotAllowed,
    /// The cluster has no mcp-auth, or one of another version of the resource.
    NotInstalled,
    /// What the command line names is not there, or does not hold what is needed.
    NotFound,
    /// Nobody takes the output.
    OutputFailed,
}

impl ExitStatus {
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::FaultFound,
        Self::Usage,
        Self::ClusterUnusable,
        Self::NotAllowed,
        Self::NotInstalled,
        Self::NotFound,
        Self::OutputFailed,
    ];

    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::FaultFound => 1,
            Self::Usage => 2,
            Self::ClusterUnusable => 3,
            Self::NotAllowed => 4,
            Self::NotInstalled => 5,
            Self::NotFound => 6,
            Self::OutputFailed => 7,
        }
    }

    /// As the reference says it.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Success => "all is well, or what was asked for has been printed",
            Self::FaultFound => {
                "a fault was found: `doctor` names it, `explain` says why the pod has no sidecar, `token` that there is no \
                 token which serves"
            }
            Self::Usage => "the command line cannot be used",
            Self::ClusterUnusable => {
                "no usable kubeconfig, no answer from the cluster, or an error of its API server"
            }
            Self::NotAllowed => "the cluster does not take the credentials, or they lack a right",
            Self::NotInstalled => "the cluster has no mcp-auth, or one of another version of the resource",
            Self::NotFound => {
                "the pod, server or file named is not there, or the file does not hold what is needed"
            }
            Self::OutputFailed => "the output cannot be written",
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
