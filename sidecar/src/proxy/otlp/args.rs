//! The settings of the exporter, as flags and variables state them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};

use clap::builder::{EnumValueParser, PossibleValue, TypedValueParser};
use mcp_auth_protocol::otlp::{OtlpEndpoint, OtlpEndpointError};
use mcp_auth_protocol::pod::env;

use super::encoding::KeyValue;
use super::exporter::ExportSettings;
use super::headers::{OtlpHeaders, OtlpHeadersError};

/// How an OpenTelemetry collector is called. Whatever is wrong here is told by [`OtlpArgs::settings`]: in a pod it must not
/// keep the program, and LiteLLM with it, from starting.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct OtlpArgs {
    /// http://HOST:PORT or https://HOST:PORT of an OpenTelemetry collector that takes OTLP over HTTP. Headers that
    /// authenticate to it are in the variable MCPAUTH_OTLP_HEADERS, as NAME=VALUE separated by commas.
    #[arg(long, env = env::OTLP_ENDPOINT, value_name = "URL", hide_env_values = true)]
    pub otlp_endpoint: Option<String>,

    /// Whether each call is a span that goes to the collector.
    #[arg(long, env = env::TRACING, value_name = "SWITCH", default_value = "disabled", value_parser = SwitchParser)]
    pub tracing: Switch,

    /// FILE with PEM certificates to verify the collector by, besides the system's; or their text, as the operator gives it.
    #[arg(long, env = env::OTLP_CA, value_name = "FILE", hide_env_values = true, allow_hyphen_values = true)]
    pub otlp_ca: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Switch {
    #[default]
    Disabled,
    Enabled,
}

/// An empty text is as none: that is how a shell, or a compose file, unsets a variable for a program.
#[derive(Clone)]
struct SwitchParser;

impl TypedValueParser for SwitchParser {
    type Value = Switch;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Switch, clap::Error> {
        match value.is_empty() {
            true => Ok(Switch::default()),
            false => EnumValueParser::new().parse_ref(command, argument, value),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values: Vec<_> = EnumValueParser::<Switch>::new().possible_values()?.collect();
        Some(Box::new(values.into_iter()))
    }
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OtlpArgsError {
    #[error("--otlp-endpoint ({variable}) {0}", variable = env::OTLP_ENDPOINT)]
    Endpoint(#[from] OtlpEndpointError),
    #[error("{variable}: {0}", variable = env::OTLP_HEADERS)]
    Headers(#[from] OtlpHeadersError),
    #[error(
        "--otlp-endpoint ({}) is missing: state where the OpenTelemetry collector is, such as \
         http://collector.monitoring:4318",
        env::OTLP_ENDPOINT
    )]
    NoEndpoint,
    #[error(
        "--otlp-ca ({variable}) names {file:?}, which cannot be read: {kind}; name a file of PEM certificates",
        variable = env::OTLP_CA
    )]
    CaFile { file: String, kind: io::ErrorKind },
    #[error(
        "--otlp-ca ({variable}) names {file:?}, which is no file of PEM certificates: it has no {PEM}CERTIFICATE-----, or \
         more than {MAX_CA_BYTES} bytes",
        variable = env::OTLP_CA
    )]
    CaNotPem { file: String },
}

/// What each PEM text has, and no path.
const PEM: &str = "-----BEGIN ";
/// More than all authorities of the public together.
const MAX_CA_BYTES: u64 = 1024 * 1024;

impl OtlpArgs {
    pub fn traces(&self) -> bool {
        self.tracing == Switch::Enabled
    }

    /// The collector that is named.
    pub fn endpoint(&self) -> Option<&str> {
        let endpoint = self.otlp_endpoint.as_deref().map(str::trim);
        endpoint.filter(|endpoint| !endpoint.is_empty())
    }

    /// `headers`: the value of [`env::OTLP_HEADERS`], which is in no flag because every user of the machine sees those.
    pub fn settings(
        &self,
        headers: Option<&str>,
        resource: Vec<KeyValue>,
    ) -> Result<ExportSettings, OtlpArgsError> {
        let endpoint: OtlpEndpoint = self.endpoint().ok_or(OtlpArgsError::NoEndpoint)?.parse()?;
        let headers: OtlpHeaders = headers.unwrap_or_default().parse()?;
        Ok(ExportSettings {
            endpoint,
            headers,
            ca: self.ca()?,
            resource,
        })
    }

    /// The certificates, as text. A pipe that nobody writes to is not waited for.
    fn ca(&self) -> Result<Option<String>, OtlpArgsError> {
        let stated = self.otlp_ca.as_deref().map(str::trim).filter(|ca| !ca.is_empty());
        let file = match stated {
            None => return Ok(None),
            Some(text) if text.contains(PEM) => return Ok(Some(text.to_owned())),
            Some(file) => file.to_owned(),
        };
        let mut text = String::new();
        let read = std::fs::metadata(&file).and_then(|metadata| match metadata.is_file() {
            true => File::open(&file)?
                .take(MAX_CA_BYTES + 1)
                .read_to_string(&mut text),
            false => Err(io::ErrorKind::InvalidData.into()),
        });
        match read {
            Ok(read) if read as u64 <= MAX_CA_BYTES && text.contains(PEM) => Ok(Some(text)),
            // Text of another encoding is none of PEM.
            Ok(_) => Err(OtlpArgsError::CaNotPem { file }),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(OtlpArgsError::CaNotPem { file }),
            Err(error) => Err(OtlpArgsError::CaFile {
                file,
                kind: error.kind(),
            }),
        }
    }
}

/// OpenTelemetry's resource: the program, and the pod that it is in. What is empty is left out.
pub fn resource(service: &'static str, namespace: &str, pod: &str, pod_uid: &str) -> Vec<KeyValue> {
    let attributes = [
        ("service.name", service),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", pod_uid),
        ("k8s.namespace.name", namespace),
        ("k8s.pod.name", pod),
        ("k8s.pod.uid", pod_uid),
    ];
    let stated = attributes.into_iter().filter(|(_, value)| !value.is_empty());
    stated.map(|(key, value)| KeyValue::text(key, value)).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn what_is_wrong_names_the_flag_and_the_variable() {
        let settings = |endpoint: Option<&str>, headers| {
            let args = OtlpArgs {
                otlp_endpoint: endpoint.map(str::to_owned),
                ..OtlpArgs::default()
            };
            args.settings(headers, Vec::new())
        };
        let endpoint = Some("http://collector:4318");
        assert!(settings(endpoint, Some("a=1")).is_ok());
        for (result, expected) in [
            (settings(None, None), "MCPAUTH_OTLP_ENDPOINT) is missing"),
            (settings(Some(" "), None), "MCPAUTH_OTLP_ENDPOINT) is missing"),
            (settings(Some("collector"), None), "--otlp-endpoint"),
            (settings(endpoint, Some("s3cret")), "MCPAUTH_OTLP_HEADERS"),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn the_collectors_certificates_are_a_file_or_their_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&file, pem).unwrap();
        let ca = |stated: &str| {
            let args = OtlpArgs {
                otlp_endpoint: Some("https://collector:4318".to_owned()),
                otlp_ca: Some(stated.to_owned()),
                ..OtlpArgs::default()
            };
            args.settings(None, Vec::new()).map(|settings| settings.ca)
        };
        let path = file.to_str().unwrap();
        assert_eq!(ca(path).unwrap().as_deref(), Some(pem));
        assert_eq!(ca(pem).unwrap().as_deref(), Some(pem.trim()));
        assert_eq!(ca(" ").unwrap(), None);
        let error = ca("/does/not/exist").unwrap_err().to_string();
        assert!(
            error.contains("--otlp-ca (MCPAUTH_OTLP_CA) names \"/does/not/exist\", which cannot be read: entity not found"),
            "{error}"
        );
        for content in [&b"no certificate"[..], &[0xff, 0xfe]] {
            std::fs::write(&file, content).unwrap();
            let error = ca(path).unwrap_err().to_string();
            assert!(error.contains("is no file of PEM certificates"), "{error}");
        }
        let error = ca("/dev/zero").unwrap_err().to_string();
        assert!(error.contains("is no file of PEM certificates"), "{error}");
    }

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        otlp: OtlpArgs,
    }

    #[test]
    fn an_empty_switch_is_as_none_and_a_misspelt_one_is_told_with_what_there_is() {
        let parse = |value: &str| Program::try_parse_from(["program", "--tracing", value]);
        for (value, expected) in [("", false), ("disabled", false), ("enabled", true)] {
            let program = parse(value).map_err(|error| error.to_string());
            assert_eq!(
                program.map(|program| program.otlp.traces()),
                Ok(expected),
                "{value}"
            );
        }
        let error = parse("on").err().unwrap().to_string();
        assert!(error.contains("possible values: disabled, enabled"), "{error}");
    }
}
