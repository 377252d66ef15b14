//! `mcp-auth check`: whether everything that `mcp-auth exec` does works on this machine, by doing it. It starts LiteLLM
//! as `exec` does, on ports of its own, with one more MCP server, which tells what arrives ([`echo`]). The
//! five criteria are those of the documentation, each with its way out.

mod echo;
mod echo_server;
mod litellm_key;
mod mcp_client;
mod package;
mod report;

use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_crds::Transport;
use mcp_auth_crds::admission::Admission;
use mcp_auth_protocol::pod::OUTBOUND_SECRET_HEADER;
use mcp_auth_sidecar::proxy::audit::Output;
use prometheus_client::registry::Registry;
use reqwest::Client;
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue};
use tokio::time::{sleep, timeout};
use url::Url;

use crate::args::{Check, Format};
use crate::embedded_sidecar::{AuditDestination, EmbeddedSidecar, Ground};
use crate::exec::{egress_proxy, in_runtime};
use crate::exit::{self, ExitError};
use crate::litellm_command::{LitellmCommand, find_program};
use crate::litellm_process::{LitellmOutput, LitellmProcess};
use crate::problem::Problem;
use crate::protected_server::ProtectedServer;
use crate::readiness::until_ready;
use crate::servers::{self, Servers, Sources};
use crate::settings::Variables;
use crate::token_feed::TokenFeed;
use echo::{ECHO, Echo};
use echo_server::TOOL;
use mcp_client::McpClient;
use report::{Criterion, Finding, Name, Report, ServerFinding};

const OFF: &str =
    "LITELLM_MCP_AUTH_AUTO_PATCH is false, by which exec runs LiteLLM without mcp-auth: unset it";
/// The header by which users choose among LiteLLM's MCP servers.
const SERVERS_HEADER: &str = "x-mcp-servers";
const KEY_HEADER: &str = "x-litellm-api-key";
const SECRET_HEADER: HeaderName = HeaderName::from_static(OUTBOUND_SECRET_HEADER);
const EVENT_STREAM: &str = "text/event-stream";
/// How long a server that is asked without a token may take to answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
const OPEN: &str = "it answers without a token, too: whoever reaches it can call it, until it demands one";
/// How long LiteLLM may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at a token that is being requested.
const TOKEN_POLL: Duration = Duration::from_millis(50);
/// LiteLLM finds the tools of its servers a moment after it is ready.
const LIST_ATTEMPTS: u32 = 20;
const LIST_INTERVAL: Duration = Duration::from_millis(500);
/// How long the interpreter of a LiteLLM that is ready may take to answer.
const PACKAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Prints the report and answers the exit code.
pub fn check(args: Check) -> u8 {
    let format = args.output;
    match run(args) {
        Ok(report) => {
            let text = match format {
                Format::Text => report.to_text(),
                Format::Json => report.to_json(),
            };
            // Without standard output nobody reads it; the exit code says it all the same.
            let _ = io::stdout().write_all(text.as_bytes());
            if report.holds { 0 } else { exit::CHECK_FAILED }
        }
        Err(error) => exit::report(&error),
    }
}

fn run(args: Check) -> Result<Report, ExitError> {
    let variables = Variables::of_process();
    let is_off = !variables.auto_patch()?;
    if let Some(program) = args.common.command.first() {
        find_program(program, std::env::var_os("PATH").as_deref())?;
    }
    let command = LitellmCommand::read(args.common.command, &variables)?;
    let audit_log = AuditDestination::new(args.common.audit_log, &args.common.otlp, &variables)?;
    let sources = Sources {
        config: command.config.clone(),
        resources: args.common.resources.map(|folder| (folder, Admission::new())),
        variables,
    };
    in_runtime(async {
        if let Some(collector) = audit_log.collector {
            collector.check()?;
        }
        Checking::run(
            command,
            sources,
            is_off,
            args.common.start_timeout,
            args.timeout,
            args.litellm_log,
        )
        .await
    })
}

/// What is there while LiteLLM runs.
struct Checking {
    sidecar: EmbeddedSidecar,
    feed: TokenFeed,
    servers: Vec<ProtectedServer>,
    echo: Echo,
    client: Client,
    /// LiteLLM's key, where it demands one.
    key: Option<String>,
}

impl Checking {
    async fn run(
        command: LitellmCommand,
        sources: Sources,
        is_off: bool,
        start_timeout: Duration,
        litellm_timeout: Duration,
        litellm_log: Option<PathBuf>,
    ) -> Result<Report, ExitError> {
        let Servers {
            protected,
            secret_variables,
            problems,
            ..
        } = match servers::read(&sources).for_start() {
            Ok(servers) => servers,
            Err(unusable) => return Ok(Report::not_loaded(&messages(&unusable.0))),
        };
        let problem = match is_off {
            true => Some(OFF.to_owned()),
            false => (!problems.is_empty()).then(|| messages(&problems)),
        };
        // Not where LiteLLM was to listen: it may be running there.
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        // Audit lines of the check are nobody's calls.
        let audit_log = AuditDestination {
            lines: Output::File("/dev/null".into()),
            collector: None,
            spans: false,
        };
        let ground = Ground::prepare(listen, command.config.as_deref(), &audit_log.lines, None).await?;
        let (feed, _) = TokenFeed::new(egress_proxy(&sources.variables)?);
        let echo = Echo::start().await?;
        let client = Client::builder().no_proxy().build();
        let client = client.map_err(|_| ExitError::System {
            what: "no HTTP client can be made",
            kind: io::ErrorKind::Other,
        })?;
        let sidecar = ground.start(&feed, start_timeout, audit_log, Registry::default())?;
        feed.apply(protected.iter().cloned().chain([echo.protected()]).collect());
        let launch = command.launch(
            sidecar.litellm.port(),
            &sidecar.wrapper,
            &sources.variables,
            &secret_variables,
        );
        let checking = Self {
            key: litellm_key::find(command.config.as_deref(), &sources.variables),
            sidecar,
            feed: feed.clone(),
            servers: protected,
            echo,
            client,
        };
        let criteria = async {
            let tokens = checking.tokens().await;
            checking.sidecar.until_litellm_may_start().await;
            let output = output(litellm_log.as_deref())?;
            let mut litellm = LitellmProcess::start(launch, checking.sidecar.folder.path(), &output)?;
            let criteria = checking
                .with_litellm(&mut litellm, problem, tokens, litellm_timeout)
                .await;
            litellm.end().await;
            // One that takes longer is ended by its supervisor, when this process ends.
            let _ = timeout(END_TIMEOUT, litellm.wait()).await;
            Ok(criteria)
        };
        let criteria = tokio::select! {
            criteria = criteria => criteria,
            never = checking.sidecar.control.run(feed) => match never {},
        };
        checking.sidecar.stop();
        criteria.map(Report::new)
    }

    async fn with_litellm(
        &self,
        litellm: &mut LitellmProcess,
        problem: Option<String>,
        tokens: Vec<ServerFinding>,
        limit: Duration,
    ) -> Vec<Criterion> {
        let mut finding = std::pin::pin!(package::find());
        let mut starting = std::pin::pin!(self.until_started(litellm, limit));
        let (package, started) = tokio::select! {
            package = &mut finding => (Some(package), starting.await),
            started = &mut starting => match started {
                Ok(()) => (timeout(PACKAGE_TIMEOUT, finding).await.ok(), Ok(())),
                // Of a process that is gone nothing can be asked.
                Err(problem) => (None, Err(problem)),
            },
        };
        let unmodified = match package {
            Some(package) => tokio::task::spawn_blocking(move || package.compare())
                .await
                .unwrap_or_else(|_| Err("its files could not be compared".to_owned())),
            None => Err(
                "no Python with the package litellm was seen among the processes of the command".to_owned(),
            ),
        };
        let see_log = "see its output: --litellm-log FILE keeps it";
        let started = started.map_err(|problem| format!("{problem}; {see_log}"));
        let loads = match (problem, &started) {
            (Some(problem), _) => Err(problem),
            (None, Err(problem)) => Err(problem.clone()),
            (None, Ok(())) => Ok("LiteLLM is ready with its own configuration and ours".to_owned()),
        };
        let (headers, accept) = match &started {
            Ok(()) => (self.headers_arrive().await, self.servers_accept().await),
            Err(_) => {
                let unknown = || "not known, since LiteLLM does not run".to_owned();
                let servers = self.servers.iter();
                let findings = servers.map(|server| ServerFinding::new(server.name(), Err(unknown())));
                (Err(unknown()), findings.collect())
            }
        };
        vec![
            Criterion::new(Name::LitellmUnmodified, unmodified),
            Criterion::of_servers(Name::OAuth2Works, tokens),
            Criterion::new(Name::ConfigurationLoads, loads),
            Criterion::new(Name::HeadersArrive, headers),
            Criterion::of_servers(Name::ServersAccept, accept),
        ]
    }

    async fn until_started(&self, litellm: &mut LitellmProcess, limit: Duration) -> Result<(), String> {
        tokio::select! {
            ready = timeout(limit, until_ready(self.sidecar.litellm)) => match ready {
                Ok(_) => Ok(()),
                Err(_) => Err(format!("LiteLLM is not ready after {} s", limit.as_secs())),
            },
            status = litellm.wait() => Err(match status {
                Ok(status) => format!("LiteLLM ended with {status} before it was ready"),
                Err(error) => error.to_string(),
            }),
        }
    }

    /// Waits for the first token of each server, or for why there is none.
    async fn tokens(&self) -> Vec<ServerFinding> {
        let mut findings = Vec::new();
        for server in &self.servers {
            let condition = loop {
                let condition = self.feed.token_issued(&server.resource);
                if condition.holds.is_some() {
                    break condition;
                }
                sleep(TOKEN_POLL).await;
            };
            let finding = match condition.holds {
                Some(true) => Ok(condition.message),
                _ => Err(format!("{}: {}", condition.reason, condition.message)),
            };
            let expiring = server.credential_expiring(Timestamp::now());
            findings.push(ServerFinding {
                warning: expiring.map(|draft| format!("{}: {}", draft.reason, draft.message)),
                ..ServerFinding::new(server.name(), finding)
            });
        }
        findings
    }

    /// Calls the echo as a user does, and looks at what arrived there.
    async fn headers_arrive(&self) -> Finding {
        let mut session = self.through_litellm(ECHO, Some(&self.echo.cookies())).await?;
        let tools = self.tools_of(&mut session).await?;
        let tool = tools.iter().find(|tool| tool.ends_with(TOOL)).ok_or_else(|| {
            format!(
                "LiteLLM does not list the tool of the check's own server. {}",
                self.advice()
            )
        })?;
        session.call(tool).await.map_err(|error| error.to_string())?;
        self.echo.arrived(self.key.as_deref())
    }

    /// Each server by ourselves through the proxy, and then by LiteLLM.
    async fn servers_accept(&self) -> Vec<ServerFinding> {
        let mut findings = Vec::new();
        for server in &self.servers {
            let finding = self.server_accepts(server).await;
            findings.push(ServerFinding {
                warning: self.is_open(server).await.then(|| OPEN.to_owned()),
                ..ServerFinding::new(server.name(), finding)
            });
        }
        findings
    }

    /// Whether the server answers anybody. One that is not reached from here without the resource's TLS settings or
    /// proxy counts as not open.
    async fn is_open(&self, server: &ProtectedServer) -> bool {
        let spec = &server.resource.spec.server;
        let asking = async {
            match spec.transport {
                Transport::StreamableHttp => McpClient::open(&self.client, &spec.url, HeaderMap::new())
                    .await
                    .is_ok(),
                Transport::Sse => {
                    let request = self.client.get(&spec.url).header(ACCEPT, EVENT_STREAM);
                    let response = request.send().await;
                    response.is_ok_and(|response| {
                        let kind = response.headers().get(CONTENT_TYPE);
                        let kind = kind.map_or(&[][..], HeaderValue::as_bytes);
                        response.status().is_success() && kind.starts_with(EVENT_STREAM.as_bytes())
                    })
                }
            }
        };
        timeout(OPEN_TIMEOUT, asking).await.unwrap_or(false)
    }

    async fn server_accepts(&self, server: &ProtectedServer) -> Finding {
        let spec = &server.resource.spec.server;
        // The legacy transport begins with a stream; LiteLLM's client knows it.
        let by_us = match spec.transport {
            Transport::Sse => None,
            Transport::StreamableHttp => {
                let url = proxied(&spec.url, &spec.name, self.sidecar.outbound);
                let secret = sensitive(self.sidecar.outbound_secret.expose())?;
                let headers = HeaderMap::from_iter([(SECRET_HEADER, secret)]);
                let session = McpClient::open(&self.client, &url, headers).await;
                let mut session = session.map_err(|error| error.to_string())?;
                Some(session.tools().await.map_err(|error| error.to_string())?.len())
            }
        };
        let mut session = self.through_litellm(&spec.name, None).await?;
        let by_litellm = match by_us {
            Some(0) => 0,
            _ => self.tools_of(&mut session).await?.len(),
        };
        match (by_us, by_litellm) {
            (Some(0), _) => Ok("it takes the token, and has no tools".to_owned()),
            (_, 0) => Err(format!(
                "it takes the token, and LiteLLM lists none of its tools. {}",
                self.advice()
            )),
            (_, count) => Ok(format!("LiteLLM lists {count} tools")),
        }
    }

    fn advice(&self) -> &'static str {
        match self.key {
            Some(_) => {
                "Does the entry in mcp_servers restrict tools or keys? LiteLLM's output says more: --litellm-log FILE"
            }
            None => {
                "No master_key was found in general_settings and in LITELLM_MASTER_KEY; LiteLLM's output says more: \
                 --litellm-log FILE"
            }
        }
    }

    /// The tools, for which LiteLLM may need a moment.
    async fn tools_of(&self, session: &mut McpClient) -> Result<Vec<String>, String> {
        let mut tools = Vec::new();
        for _ in 0..LIST_ATTEMPTS {
            tools = session.tools().await.map_err(|error| error.to_string())?;
            if !tools.is_empty() {
                break;
            }
            sleep(LIST_INTERVAL).await;
        }
        Ok(tools)
    }

    /// A session with LiteLLM's MCP endpoint as a user has it, for this server alone.
    async fn through_litellm(&self, server: &str, cookies: Option<&str>) -> Result<McpClient, String> {
        let mut headers = HeaderMap::new();
        headers.insert(SERVERS_HEADER, sensitive(server)?);
        if let Some(cookies) = cookies {
            headers.insert(COOKIE, sensitive(cookies)?);
        }
        if let Some(key) = &self.key {
            headers.insert(KEY_HEADER, sensitive(&format!("Bearer {key}"))?);
        }
        let url = format!("http://{}/mcp/", self.sidecar.inbound);
        let session = McpClient::open(&self.client, &url, headers).await;
        session.map_err(|error| format!("LiteLLM's /mcp: {error}. {}", self.advice()))
    }
}

fn messages(problems: &[Problem]) -> String {
    let messages: Vec<&str> = problems.iter().map(|problem| &*problem.message).collect();
    messages.join("; ")
}

/// Where LiteLLM's output goes.
fn output(log: Option<&Path>) -> Result<LitellmOutput, ExitError> {
    let Some(path) = log else {
        return Ok(LitellmOutput::Discard);
    };
    let file = File::create(path).map_err(|error| ExitError::LitellmLog {
        file: path.to_owned(),
        kind: error.kind(),
    })?;
    Ok(LitellmOutput::File(file))
}

fn sensitive(text: &str) -> Result<HeaderValue, String> {
    let value = HeaderValue::from_str(text);
    let mut value = value.map_err(|_| "LiteLLM's key cannot be the value of a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// The server's URL at the outbound proxy, as the overlay has it.
fn proxied(url: &str, server: &str, outbound: SocketAddr) -> String {
    let parsed = Url::parse(url).ok();
    let path = parsed.as_ref().map_or("/", |url| url.path());
    let query = parsed.as_ref().and_then(|url| url.query());
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    format!("http://{outbound}/{server}{path}{query}")
}
