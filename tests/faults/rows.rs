//! The lines of the table in docs/operator.md, one of each test.

use std::io::Write;

use mcp_auth_tests::setting;

/// What was counted while something failed.
#[derive(Debug)]
pub struct Row {
    pub fault: &'static str,
    /// What the test does for it, to programs beside an API server.
    pub done: &'static str,
    pub calls: usize,
    pub failed: usize,
    pub minted: usize,
    /// From the beginning of the fault.
    pub seconds_until_calm: u64,
    pub status_writes: usize,
}

impl Row {
    /// Into the file that the script around the tests makes the table of.
    pub fn write(&self) {
        let Self {
            fault,
            done,
            calls,
            failed,
            minted,
            seconds_until_calm,
            status_writes,
        } = self;
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(setting("MCPAUTH_TEST_FAULTS"))
            .unwrap();
        writeln!(
            file,
            "| {fault} | {done} | {calls} | {failed} | {minted} | {seconds_until_calm} | {status_writes} |"
        )
        .unwrap();
    }
}
