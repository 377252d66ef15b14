//! The log. What is logged is said by a level or by directives; a level alone is ours: the libraries below would fill
//! the log with each frame and handshake. A log that cannot be written holds up no request ([`lossy_writer`]), and no
//! stranger fills it ([`rate_limit`]).

mod lossy_writer;
mod rate_limit;

use std::io::{self, IsTerminal, stderr};

use mcp_auth_protocol::log::{NoLevel, check_levels};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::prelude::*;

pub use lossy_writer::LossyWriter;
use rate_limit::RateLimit;

/// What the targets of all crates of this project begin with.
const OURS: &str = "mcp_auth";

/// Why directives are not used.
#[derive(Debug, Error)]
pub enum LogFilterError {
    #[error(transparent)]
    Level(#[from] NoLevel),
    #[error(transparent)]
    Directives(#[from] ParseError),
}

/// Lines that were not written: the queue was full, or many said the same.
#[derive(Clone, Debug, Default)]
pub struct DroppedLines(Family<DroppedLabels, Counter>);

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DroppedLabels {
    cause: &'static str,
}

const FULL: DroppedLabels = DroppedLabels { cause: "full" };
const REPEATED: DroppedLabels = DroppedLabels { cause: "repeated" };

/// Logs to standard error from now on, in JSON unless that is a terminal. Returns what writes, to be flushed at the end.
pub fn start_log(filter: Targets, dropped: &DroppedLines) -> io::Result<LossyWriter> {
    let writer = LossyWriter::start(stderr(), dropped.clone())?;
    let log = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer.clone());
    let limit = RateLimit::new(dropped.clone());
    if stderr().is_terminal() {
        log.with(lines.with_filter(limit)).init();
    } else {
        log.with(lines.json().flatten_event(true).with_filter(limit))
            .init();
    }
    Ok(writer)
}

impl DroppedLines {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("mcpauth_sidecar");
        for labels in [FULL, REPEATED] {
            // Zero as long as nothing is lost, rather than absent.
            self.0.get_or_create_owned(&labels);
        }
        registry.register(
            "log_lines_dropped",
            "Log lines that were not written",
            self.0.clone(),
        );
    }

    fn count_full(&self) {
        self.0.get_or_create(&FULL).inc();
    }

    fn count_repeated(&self) {
        self.0.get_or_create(&REPEATED).inc();
    }

    #[cfg(test)]
    fn full(&self) -> u64 {
        self.0.get_or_create(&FULL).get()
    }

    #[cfg(test)]
    fn repeated(&self) -> u64 {
        self.0.get_or_create(&REPEATED).get()
    }
}

/// The filter by `directives` (`debug`, `info,h2=trace`), and what is wrong with them if they are not used.
/// Nothing means `info`. Targets and levels are all that is documented, and need none of the regular expressions
/// of an `EnvFilter`.
pub fn log_filter(directives: &str) -> (Targets, Option<LogFilterError>) {
    let info = || Targets::new().with_default(LevelFilter::INFO);
    let (stated, error) = match parse(directives.trim()) {
        Ok(stated) => (stated.unwrap_or_else(info), None),
        Err(error) => (info(), Some(error)),
    };
    let Some(level) = stated.default_level() else {
        return (stated, error);
    };
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::INFO))
        .with_target(OURS, level)
        // The more specific ones, and those about us, count more.
        .with_targets(stated);
    (filter, error)
}

fn parse(directives: &str) -> Result<Option<Targets>, LogFilterError> {
    if directives.is_empty() {
        return Ok(None);
    }
    check_levels(directives)?;
    Ok(Some(directives.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    fn enables(directives: &str, target: &str, level: Level) -> bool {
        log_filter(directives).0.would_enable(target, &level)
    }

    #[test]
    fn a_level_alone_is_that_of_our_own_code() {
        assert!(enables("debug", "mcp_auth_sidecar::proxy", Level::DEBUG));
        assert!(!enables("debug", "rustls::client", Level::DEBUG));
        assert!(enables("debug", "h2::codec", Level::INFO));
        assert!(enables("", "mcp_auth_sidecar", Level::INFO));
        assert!(!enables("", "mcp_auth_sidecar", Level::DEBUG));
        assert!(!enables("error", "mcp_auth_sidecar", Level::WARN));
        assert!(!enables("error", "h2", Level::WARN));
    }

    #[test]
    fn a_library_is_logged_where_it_is_named() {
        assert!(enables("info,h2=trace", "h2::codec", Level::TRACE));
        assert!(!enables("info,h2=trace", "mcp_auth_sidecar", Level::DEBUG));
        assert!(enables(
            "info,mcp_auth_sidecar=debug",
            "mcp_auth_sidecar",
            Level::DEBUG
        ));
        assert!(!enables("mcp_auth_sidecar=debug", "h2", Level::ERROR));
    }

    #[test]
    fn what_is_no_level_is_said_and_info_is_logged() {
        for (directives, expected) in [
            ("mcp_auth=loud", "level"),
            ("verbose", "\"verbose\" is no level"),
            ("warn,h2", "\"h2\" is no level"),
        ] {
            let (filter, error) = log_filter(directives);
            let message = error.unwrap().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(filter.would_enable("mcp_auth_sidecar", &Level::INFO));
            assert!(!filter.would_enable("mcp_auth_sidecar", &Level::DEBUG));
        }
    }
}
