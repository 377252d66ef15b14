//! LiteLLM's process: started below a supervisor, which ends it with us, and signalled through it.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, getpid};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use crate::exit::ExitError;
use crate::litellm_command::Launch;
use crate::processes::{become_subreaper, descendants, end_descendants};
use crate::supervise::END_GRACE;

/// The number of SIGTERM on Linux, whatever the processor.
const SIGTERM: u8 = 15;

/// Where LiteLLM's output goes.
pub enum LitellmOutput {
    /// Where ours goes.
    Inherit,
    File(File),
    Discard,
}

impl LitellmOutput {
    fn stdio(&self) -> io::Result<Stdio> {
        Ok(match self {
            Self::Inherit => Stdio::inherit(),
            Self::File(file) => file.try_clone()?.into(),
            Self::Discard => Stdio::null(),
        })
    }
}

/// The supervisor of LiteLLM, and the pipe by which it gets signals.
pub struct LitellmProcess {
    supervisor: Child,
    signals: Option<ChildStdin>,
    /// What ran below this process before.
    before: Vec<Pid>,
}

impl LitellmProcess {
    /// `folder` is removed when this process has gone.
    pub fn start(launch: Launch, folder: &Path, output: &LitellmOutput) -> Result<Self, ExitError> {
        let system = |error: io::Error| ExitError::System {
            what: "the supervisor of LiteLLM cannot be started",
            kind: error.kind(),
        };
        let before = descendants(getpid());
        // Where the kernel refuses, a supervisor that is killed may leave LiteLLM behind, and nothing else.
        let _ = become_subreaper();
        let mut command = Command::new(std::env::current_exe().map_err(system)?);
        command
            .args(["supervise", "--cleanup"])
            .arg(folder)
            .arg("--")
            .args(launch.words);
        for name in &launch.remove {
            command.env_remove(name);
        }
        let child = command
            .envs(launch.set)
            .stdin(Stdio::piped())
            .stdout(output.stdio().map_err(system)?)
            .stderr(output.stdio().map_err(system)?)
            // The terminal's signals reach us alone; we pass each on once.
            .process_group(0)
            .spawn();
        let mut supervisor = child.map_err(system)?;
        Ok(Self {
            signals: supervisor.stdin.take(),
            supervisor,
            before,
        })
    }

    /// Waits for LiteLLM's end. One that the supervisor left behind, because it was killed, is ended.
    pub async fn wait(&mut self) -> Result<ExitStatus, ExitError> {
        let status = self.supervisor.wait().await.map_err(|error| ExitError::System {
            what: "the supervisor of LiteLLM cannot be waited for",
            kind: error.kind(),
        })?;
        if status.signal().is_some() {
            end_descendants(END_GRACE, &self.before);
        }
        Ok(status)
    }

    /// Passes this signal on to LiteLLM.
    pub async fn signal(&mut self, number: u8) {
        if let Some(pipe) = &mut self.signals {
            // A supervisor that is gone is seen by its status.
            let _ = pipe.write_all(&[number]).await;
        }
    }

    /// Asks LiteLLM to end.
    pub async fn end(&mut self) {
        self.signal(SIGTERM).await;
    }
}
