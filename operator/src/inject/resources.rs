//! The sidecar's resources, checked as the API server would: what it refuses in a container would keep every
//! injected pod from starting, so it has to stop the operator's start instead.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Deserializer};
use thiserror::Error;

/// What a sidecar can use.
pub(super) const NAMES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// The billionths in a unit.
pub(super) const NANO: i128 = 1_000_000_000;
/// No sidecar runs with less memory, and LiteLLM starts after it: what states less has mistaken the unit.
pub(super) const LEAST_MEMORY_BYTES: i128 = 16 * 1024 * 1024;

#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ResourcesError {
    #[error("resources.{field}.{name} is not known; a sidecar takes cpu, memory and ephemeral-storage")]
    UnknownName { field: &'static str, name: String },
    #[error(
        "resources.{field}.{name} is a text of {length} characters and no quantity; write it as 100m, 0.5, \
         64Mi or 1G"
    )]
    NotAQuantity {
        field: &'static str,
        name: String,
        length: usize,
    },
    #[error("resources.requests.{name} is above resources.limits.{name}; raise the limit or take it out")]
    RequestAboveLimit { name: String },
    #[error("resources.{field}.memory is {bytes} bytes: write 64Mi, not 64m; 16Mi is the least")]
    TooLittleMemory { field: &'static str, bytes: i128 },
}

/// What a settings file says of resources. A misspelt key is an error, which it is not in
/// [`ResourceRequirements`].
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatedResources {
    #[serde(default)]
    requests: BTreeMap<String, StatedQuantity>,
    #[serde(default)]
    limits: BTreeMap<String, StatedQuantity>,
}

/// Charts write `cpu: 1` as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum StatedQuantity {
    Text(String),
    Number(serde_json::Number),
}

/// For `serde(deserialize_with)`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<ResourceRequirements, D::Error> {
    let StatedResources { requests, limits } = StatedResources::deserialize(deserializer)?;
    let quantities = |stated: BTreeMap<String, StatedQuantity>| {
        let quantity = |(name, quantity)| match quantity {
            StatedQuantity::Text(text) => (name, Quantity(text)),
            StatedQuantity::Number(number) => (name, Quantity(number.to_string())),
        };
        let quantities: BTreeMap<_, _> = stated.into_iter().map(quantity).collect();
        (!quantities.is_empty()).then_some(quantities)
    };
    Ok(ResourceRequirements {
        requests: quantities(requests),
        limits: quantities(limits),
        claims: None,
    })
}

/// What a pod's annotation states of its sidecar's resources.
#[derive(Debug, PartialEq)]
pub(super) struct SidecarResources {
    /// With those of the settings.
    pub all: ResourceRequirements,
    pub stated: Option<ResourceRequirements>,
}

/// What an annotation states, over what the settings say; `None` if it is none, or if the API server would refuse what
/// comes of it.
pub(super) fn with_stated(settings: &ResourceRequirements, text: &str) -> Option<SidecarResources> {
    let stated = deserialize(&mut serde_json::Deserializer::from_str(text)).ok()?;
    let over = |base: &Option<BTreeMap<String, Quantity>>, stated: &Option<BTreeMap<String, Quantity>>| {
        let mut quantities = base.clone().unwrap_or_default();
        quantities.extend(stated.clone().unwrap_or_default());
        (!quantities.is_empty()).then_some(quantities)
    };
    let resources = ResourceRequirements {
        requests: over(&settings.requests, &stated.requests),
        limits: over(&settings.limits, &stated.limits),
        claims: None,
    };
    check(&resources).ok()?;
    Some(SidecarResources {
        all: resources,
        stated: Some(stated),
    })
}

/// The settings without what the pod states for all of its containers together (pod-level resources).
pub(super) fn without_those_of_pod(
    settings: &ResourceRequirements,
    of_pod: Option<&ResourceRequirements>,
) -> ResourceRequirements {
    let stated: Vec<&String> = of_pod
        .map(|of_pod| {
            of_pod
                .requests
                .iter()
                .chain(&of_pod.limits)
                .flatten()
                .map(|(name, _)| name)
                .collect()
        })
        .unwrap_or_default();
    let others = |quantities: &Option<BTreeMap<String, Quantity>>| {
        let mut quantities = quantities.clone()?;
        quantities.retain(|name, _| !stated.contains(&name));
        (!quantities.is_empty()).then_some(quantities)
    };
    ResourceRequirements {
        requests: others(&settings.requests),
        limits: others(&settings.limits),
        claims: None,
    }
}

pub(super) fn check(resources: &ResourceRequirements) -> Result<(), ResourcesError> {
    let requests = amounts("requests", resources.requests.as_ref())?;
    let limits = amounts("limits", resources.limits.as_ref())?;
    let is_above = |(name, amount): &(&&str, &i128)| limits.get(**name).is_some_and(|limit| *amount > limit);
    match requests.iter().find(is_above) {
        Some((name, _)) => Err(ResourcesError::RequestAboveLimit {
            name: (*name).to_owned(),
        }),
        None => Ok(()),
    }
}

fn amounts<'a>(
    field: &'static str,
    quantities: Option<&'a BTreeMap<String, Quantity>>,
) -> Result<BTreeMap<&'a str, i128>, ResourcesError> {
    let amount = |(name, Quantity(text)): (&'a String, &Quantity)| {
        if !NAMES.contains(&name.as_str()) {
            return Err(ResourcesError::UnknownName {
                field,
                name: name.clone(),
            });
        }
        let amount = nano_units(text).ok_or_else(|| ResourcesError::NotAQuantity {
            field,
            name: name.clone(),
            length: text.chars().count(),
        })?;
        // Zero stands for none.
        if name == "memory" && amount > 0 && amount < LEAST_MEMORY_BYTES * NANO {
            return Err(ResourcesError::TooLittleMemory {
                field,
                // Kubernetes rounds up as well.
                bytes: (amount + NANO - 1) / NANO,
            });
        }
        Ok((name.as_str(), amount))
    };
    quantities.into_iter().flatten().map(amount).collect()
}

/// Kubernetes' grammar of quantities: a decimal number that is not negative, and a suffix that is binary
/// (`Ki` to `Ei`), decimal (`n` to `E`) or an exponent. In billionths, which is as fine as Kubernetes is.
pub(super) fn nano_units(text: &str) -> Option<i128> {
    let number_end = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let decimals = i32::try_from(fraction.len()).ok()?;
    let (binary_power, decimal_power) = match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => (0, suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?),
    };
    let scaled = digits.checked_mul(1 << binary_power)?;
    let power = decimal_power + 9 - decimals;
    let factor = 10_i128.checked_pow(power.unsigned_abs())?;
    if power >= 0 {
        scaled.checked_mul(factor)
    } else {
        Some(scaled / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        let unit = 1_000_000_000;
        for (text, expected) in [
            ("1", Some(unit)),
            ("0.5", Some(unit / 2)),
            (".5", Some(unit / 2)),
            ("500m", Some(unit / 2)),
            ("64Mi", Some(64 * 1024 * 1024 * unit)),
            ("1.5Gi", Some(3 * 512 * 1024 * 1024 * unit)),
            ("1G", Some(unit * unit)),
            ("1e3", Some(1000 * unit)),
            ("2E", Some(2_000_000_000_000_000_000 * unit)),
            ("100n", Some(100)),
            ("", None),
            (".", None),
            ("abc", None),
            ("-1", None),
            ("1.2.3", None),
            ("64MB", None),
            ("64 Mi", None),
            ("1e", None),
            ("1e99", None),
        ] {
            assert_eq!(nano_units(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_a_pod_states_stands_over_what_the_settings_say_where_both_fit() {
        let settings = r#"{"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}"#;
        let settings = deserialize(&mut serde_json::Deserializer::from_str(settings)).unwrap();
        let stated = with_stated(
            &settings,
            r#"{"limits": {"cpu": "100m"}, "requests": {"cpu": 0.05}}"#,
        )
        .unwrap();
        let shown = serde_json::to_value(&stated.all).unwrap();
        let expected = serde_json::json!({
            "requests": {"cpu": "0.05", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "128Mi"},
        });
        assert_eq!(shown, expected);
        for wrong in [
            "",
            "100m",
            r#"{"limit": {}}"#,
            r#"{"limits": {"cpu": "abc"}}"#,
            r#"{"limits": {"memory": "16Mi"}}"#,
            r#"{"requests": {"memory": "64m"}}"#,
            r#"{"requests": {"memory": "1"}, "limits": {"memory": "1"}}"#,
            r#"{"limits": {"gpu": "1"}}"#,
        ] {
            assert_eq!(with_stated(&settings, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_least_memory_and_none_are_taken() {
        for text in [
            r#"{"limits": {"memory": "16Mi"}}"#,
            r#"{"requests": {"memory": 0, "cpu": "1m"}}"#,
        ] {
            let resources = deserialize(&mut serde_json::Deserializer::from_str(text)).unwrap();
            assert_eq!(check(&resources), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_the_api_server_would_refuse_is_named() {
        let checked = |text: &str| {
            let resources = deserialize(&mut serde_json::Deserializer::from_str(text)).unwrap();
            check(&resources).map_err(|error| error.to_string())
        };
        assert_eq!(
            checked(r#"{"requests": {"cpu": 1, "memory": "64Mi"}, "limits": {"cpu": "1000m"}}"#),
            Ok(())
        );
        for (text, expected) in [
            (
                r#"{"requests": {"memory": "512Mi"}, "limits": {"memory": "256Mi"}}"#,
                "requests.memory is above",
            ),
            (
                r#"{"limits": {"cpu": "abc"}}"#,
                "limits.cpu is a text of 3 characters",
            ),
            (r#"{"limits": {"mem": "1Gi"}}"#, "limits.mem is not known"),
            (
                r#"{"limits": {"memory": "64m"}}"#,
                "limits.memory is 1 bytes: write 64Mi, not 64m",
            ),
            (
                r#"{"requests": {"memory": 64}}"#,
                "requests.memory is 64 bytes: write 64Mi, not 64m",
            ),
            (
                r#"{"limits": {"memory": "16777215"}}"#,
                "limits.memory is 16777215 bytes",
            ),
        ] {
            let error = checked(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let misspelt = deserialize(&mut serde_json::Deserializer::from_str(
            r#"{"request": {"cpu": "1"}}"#,
        ));
        assert!(misspelt.unwrap_err().to_string().contains("request"));
    }
}
