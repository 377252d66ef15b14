//! Namespace limits: what the ResourceQuotas and LimitRanges of a namespace demand of the sidecar's resources. The API
//! server judges the pod by them after the webhook (the admission plugins LimitRanger and ResourceQuota), with the sidecar
//! in it. The sidecar gets the requests and limits that they demand and that neither chart nor pod states; a pod that they would
//! refuse because of the sidecar is not injected.

mod quota_scope;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, LimitRange, LimitRangeItem, PodSpec, ResourceQuota, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::error::InjectionError;
use super::resources::{LEAST_MEMORY_BYTES, NAMES, NANO, nano_units};
use quota_scope::matches;

/// What a sidecar gets where a quota demands a value that neither the settings nor the pod state: what the chart states by
/// default, and a limit of CPU, which it does not.
const DEFAULTS: [(Field, &str, &str); 4] = [
    (Field::Requests, "cpu", "20m"),
    (Field::Requests, "memory", "24Mi"),
    (Field::Limits, "cpu", "250m"),
    (Field::Limits, "memory", "256Mi"),
];

/// The objects of one namespace that limit what its pods take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamespaceLimits {
    pub quotas: Vec<ResourceQuota>,
    pub ranges: Vec<LimitRange>,
    /// Whoever reads the answer may be one who must not read these objects: it shows no amount and no name of them, but which values
    /// a quota wants every container to state, and whether the sidecar fits.
    pub are_withheld: bool,
}

impl NamespaceLimits {
    pub fn withheld(self) -> Self {
        Self {
            are_withheld: true,
            ..self
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Field {
    Requests,
    Limits,
}

/// The sidecar's resources while they are fitted. What the pod states stays as it is.
struct Sidecar<'a> {
    resources: ResourceRequirements,
    stated: Option<&'a ResourceRequirements>,
}

/// Where the sidecar is to be: index among the init containers, which it runs beside if they come later.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub spec: &'a PodSpec,
    pub position: usize,
}

/// The sidecar's resources within the limits. `stated` is what the pod's annotation says of them, which is part of
/// `resources` and is not changed.
pub(super) fn fit(
    place: Place<'_>,
    resources: ResourceRequirements,
    stated: Option<&ResourceRequirements>,
    limits: &NamespaceLimits,
) -> Result<ResourceRequirements, InjectionError> {
    let mut sidecar = Sidecar { resources, stated };
    sidecar.apply_quotas(place.spec, &limits.quotas);
    if limits.are_withheld {
        // The range's amounts would be seen in the sidecar's: it is judged as the API server would complete it.
        let mut completed = Sidecar {
            resources: sidecar.resources.clone(),
            stated: None,
        };
        completed.fill_in_requests();
        for (_, item) in items(limits, "Container") {
            completed.fill_in_defaults(item);
        }
        completed.check(place, limits).map_err(without_names)?;
    } else {
        for (_, item) in items(limits, "Container") {
            sidecar.apply_range(item);
        }
        sidecar.check(place, limits)?;
    }
    let ResourceRequirements { requests, limits, .. } = &mut sidecar.resources;
    for quantities in [requests, limits] {
        quantities.take_if(|quantities| quantities.is_empty());
    }
    Ok(sidecar.resources)
}

/// What the limit ranges say of each of this kind: `Container` or `Pod`.
fn items<'a>(
    limits: &'a NamespaceLimits,
    kind: &'static str,
) -> impl Iterator<Item = (&'a LimitRange, &'a LimitRangeItem)> {
    limits.ranges.iter().flat_map(move |range| {
        let items = range.spec.iter().flat_map(|spec| &spec.limits);
        items
            .filter(move |item| item.type_ == kind)
            .map(move |item| (range, item))
    })
}

fn without_names(error: InjectionError) -> InjectionError {
    match error {
        InjectionError::ExceedsQuota { .. } => InjectionError::ExceedsSomeQuota,
        InjectionError::OutsideLimitRange { .. } => InjectionError::OutsideSomeLimitRange,
        other => other,
    }
}

fn conflict(range: &LimitRange, what: &str) -> InjectionError {
    InjectionError::OutsideLimitRange {
        range: range.metadata.name.clone().unwrap_or_default(),
        what: what.to_owned(),
    }
}

impl Sidecar<'_> {
    fn get(&self, field: Field, name: &str) -> Option<i128> {
        amount(&self.resources, field, name)
    }

    fn set(&mut self, field: Field, name: &str, quantity: Quantity) {
        let is_stated = |stated: &&ResourceRequirements| amount(stated, field, name).is_some();
        if self.stated.as_ref().is_some_and(is_stated) {
            return;
        }
        quantities_mut(&mut self.resources, field).insert(name.to_owned(), quantity);
    }

    /// Whether the API server would refuse the pod because of the sidecar.
    fn check(&self, place: Place<'_>, limits: &NamespaceLimits) -> Result<(), InjectionError> {
        for (range, item) in items(limits, "Container") {
            if let Some(what) = self.outside_of_range(item) {
                return Err(conflict(range, &what));
            }
        }
        for (range, item) in items(limits, "Pod") {
            if let Some(what) = above_range_of_pods(place, &self.resources, item) {
                return Err(conflict(range, &what));
            }
        }
        exceeded_quota(place, &self.resources, &limits.quotas).map_or(Ok(()), Err)
    }

    /// States what a quota wants every container of a pod to state.
    fn apply_quotas(&mut self, spec: &PodSpec, quotas: &[ResourceQuota]) {
        let is_best_effort = is_best_effort(spec);
        let demanded = |quota: &ResourceQuota| {
            hard(quota)
                .keys()
                .filter_map(|key| demanded_by(key))
                .collect::<Vec<_>>()
        };
        let is_for_others = |quota: &&ResourceQuota| {
            matches(quota, spec, false) == Some(true) && matches(quota, spec, true) == Some(false)
        };
        // A pod that states nothing is none of this quota's concern, as long as the sidecar states nothing either.
        if is_best_effort
            && quotas
                .iter()
                .filter(is_for_others)
                .any(|quota| !demanded(quota).is_empty())
        {
            for field in [Field::Requests, Field::Limits] {
                let of_pod = self.stated.cloned().unwrap_or_default();
                quantities_mut(&mut self.resources, field)
                    .retain(|name, _| amount(&of_pod, field, name).is_some());
            }
            if is_best_effort_container(&self.resources) {
                return;
            }
        }
        for quota in quotas {
            if matches(quota, spec, false) == Some(false) {
                continue;
            }
            for (field, name) in demanded(quota) {
                let of_pod = spec.resources.as_ref();
                let is_of_pod = of_pod.is_some_and(|of_pod| amount(of_pod, field, name).is_some());
                if is_of_pod || self.get(field, name).is_some() {
                    continue;
                }
                let default = DEFAULTS.iter().find(|(at, of, _)| (*at, *of) == (field, name));
                let Some((_, _, default)) = default else { continue };
                let default = Quantity((*default).to_owned());
                self.set(field, name, default.clone());
                self.keep_request_within_limit(name, field);
            }
        }
    }

    /// A value that was set gives way to the other one of the same resource.
    fn keep_request_within_limit(&mut self, name: &str, set: Field) {
        let (Some(request), Some(limit)) = (self.get(Field::Requests, name), self.get(Field::Limits, name))
        else {
            return;
        };
        if request <= limit {
            return;
        }
        match set {
            Field::Requests => self.copy(name, Field::Limits, Field::Requests),
            Field::Limits => self.copy(name, Field::Requests, Field::Limits),
        }
    }

    fn copy(&mut self, name: &str, from: Field, to: Field) {
        if let Some(quantity) = quantity(&self.resources, from, name).cloned() {
            self.set(to, name, quantity);
        }
    }

    /// What states a limit alone requests as much: so the API server completes a container.
    fn fill_in_requests(&mut self) {
        for name in NAMES {
            if self.get(Field::Requests, name).is_none() {
                self.copy(name, Field::Limits, Field::Requests);
            }
        }
    }

    /// What the admission plugin LimitRanger fills in, as it is.
    fn fill_in_defaults(&mut self, item: &LimitRangeItem) {
        for name in NAMES {
            for (field, default) in defaults(item, name) {
                if let (None, Some(default)) = (self.get(field, name), default) {
                    self.set(field, name, default);
                }
            }
        }
    }

    /// Brings the sidecar between minimum and maximum of a container, and fills in what the admission plugin LimitRanger would:
    /// a default limit below the request would have the pod refused.
    fn apply_range(&mut self, item: &LimitRangeItem) {
        for name in NAMES {
            let of = |quantities: &Option<BTreeMap<String, Quantity>>| quantity_in(quantities, name);
            let (min, max) = (of(&item.min), of(&item.max));
            for (field, default) in defaults(item, name) {
                if let (None, Some(default)) = (self.get(field, name), default) {
                    self.set(field, name, default);
                    self.keep_request_within_limit(name, field);
                }
            }
            for field in [Field::Requests, Field::Limits] {
                let present = self.get(field, name);
                if let Some(min) = min.as_ref().filter(|min| is_below(present, nano_units(&min.0))) {
                    self.set(field, name, min.clone());
                }
                if let Some(max) = max.as_ref().filter(|max| is_below(nano_units(&max.0), present)) {
                    self.set(field, name, max.clone());
                }
            }
            let Some(ratio) = of(&item.max_limit_request_ratio).and_then(|ratio| nano_units(&ratio.0)) else {
                continue;
            };
            if self.get(Field::Limits, name).is_none() {
                self.copy(name, Field::Requests, Field::Limits);
            }
            let (request, limit) = (self.get(Field::Requests, name), self.get(Field::Limits, name));
            if let Some(limit) = limit.filter(|limit| ratio > 0 && is_above_ratio(*limit, request, ratio)) {
                let least = (limit * NANO + ratio - 1) / ratio;
                self.set(Field::Requests, name, shown(least));
            }
        }
    }

    /// Why the API server would refuse the sidecar's container.
    fn outside_of_range(&self, item: &LimitRangeItem) -> Option<String> {
        NAMES.into_iter().find_map(|name| {
            let of = |quantities: &Option<BTreeMap<String, Quantity>>| {
                nano_units(&quantities.as_ref()?.get(name)?.0)
            };
            let (request, limit) = (self.get(Field::Requests, name), self.get(Field::Limits, name));
            // What states a limit alone requests as much.
            let request = request.or(limit);
            let (min, max) = (of(&item.min), of(&item.max));
            if min.is_some() && (request.is_none() || is_below(request, min) || is_below(limit, min)) {
                return Some(format!(
                    "the sidecar's {name} is below the minimum of a container"
                ));
            }
            if max.is_some() && (limit.is_none() || is_below(max, limit) || is_below(max, request)) {
                return Some(format!(
                    "the sidecar's {name} is above the maximum of a container"
                ));
            }
            let least = LEAST_MEMORY_BYTES * NANO;
            if name == "memory" && limit.is_some_and(|limit| limit > 0 && limit < least) {
                return Some(
                    "the maximum of a container's memory is below the 16Mi that a sidecar needs".into(),
                );
            }
            if is_below(limit, request) {
                return Some(format!(
                    "the sidecar's request of {name} would be above its limit"
                ));
            }
            let ratio = of(&item.max_limit_request_ratio)?;
            let is_outside = limit.is_none_or(|limit| is_above_ratio(limit, request, ratio));
            is_outside.then(|| format!("the sidecar's limit of {name} is too many times its request"))
        })
    }
}

/// What a container gets by default.
fn defaults(item: &LimitRangeItem, name: &str) -> [(Field, Option<Quantity>); 2] {
    let of = |quantities: &Option<BTreeMap<String, Quantity>>| quantity_in(quantities, name);
    [
        (Field::Limits, of(&item.default).or(of(&item.max))),
        (Field::Requests, of(&item.default_request).or(of(&item.min))),
    ]
}

fn quantity_in(quantities: &Option<BTreeMap<String, Quantity>>, name: &str) -> Option<Quantity> {
    quantities.as_ref()?.get(name).cloned()
}

/// Why the API server would refuse the pod because of the sidecar, whose resources count together with the others'.
fn above_range_of_pods(
    place: Place<'_>,
    sidecar: &ResourceRequirements,
    item: &LimitRangeItem,
) -> Option<String> {
    NAMES.into_iter().find_map(|name| {
        let max = nano_units(&item.max.as_ref()?.get(name)?.0)?;
        let is_above = |sidecar| usage(place, sidecar, Field::Limits, name) > max;
        (is_above(Some(sidecar)) && !is_above(None))
            .then(|| format!("with the sidecar the pod is above the maximum of {name} of a pod"))
    })
}

/// The quota that has room for the pod, and none for the sidecar besides.
fn exceeded_quota(
    place: Place<'_>,
    sidecar: &ResourceRequirements,
    quotas: &[ResourceQuota],
) -> Option<InjectionError> {
    let with_sidecar = is_best_effort(place.spec) && is_best_effort_container(sidecar);
    quotas
        .iter()
        .filter(|quota| matches(quota, place.spec, with_sidecar) == Some(true))
        .find_map(|quota| {
            let used = quota.status.as_ref()?.used.as_ref()?;
            hard(quota).iter().find_map(|(key, hard)| {
                let (field, name) = counted_by(key)?;
                let left = nano_units(&hard.0)? - nano_units(&used.get(key)?.0)?;
                let takes = |sidecar| usage(place, sidecar, field, name);
                let is_exceeded = takes(Some(sidecar)) > left && takes(None) <= left;
                is_exceeded.then(|| InjectionError::ExceedsQuota {
                    quota: quota.metadata.name.clone().unwrap_or_default(),
                    resource: key.clone(),
                })
            })
        })
}

/// What the pod takes with or without the sidecar, as Kubernetes counts it: init containers run one after the other, beside
/// those before them that run on.
fn usage(place: Place<'_>, sidecar: Option<&ResourceRequirements>, field: Field, name: &str) -> i128 {
    let spec = place.spec;
    if let Some(of_pod) = spec
        .resources
        .as_ref()
        .and_then(|of_pod| amount(of_pod, field, name))
    {
        return of_pod;
    }
    let of_container = |resources: &ResourceRequirements| {
        let limit = || amount(resources, Field::Limits, name).filter(|_| field == Field::Requests);
        amount(resources, field, name).or_else(limit).unwrap_or_default()
    };
    let of = |container: &Container| container.resources.as_ref().map_or(0, of_container);
    let mut running_on = 0;
    let mut most = 0;
    let containers = spec.init_containers.as_deref().unwrap_or_default();
    for index in 0..=containers.len() {
        if index == place.position {
            running_on += sidecar.map_or(0, of_container);
            most = most.max(running_on);
        }
        let Some(container) = containers.get(index) else {
            break;
        };
        if container.restart_policy.as_deref() == Some("Always") {
            running_on += of(container);
            most = most.max(running_on);
        } else {
            most = most.max(running_on + of(container));
        }
    }
    let overhead = spec.overhead.as_ref().and_then(|overhead| overhead.get(name));
    let overhead = overhead
        .and_then(|quantity| nano_units(&quantity.0))
        .unwrap_or_default();
    most.max(running_on + spec.containers.iter().map(of).sum::<i128>()) + overhead
}

/// The bounds that hold: those of the status, which the quota's controller writes.
fn hard(quota: &ResourceQuota) -> BTreeMap<String, Quantity> {
    let of_status = quota.status.as_ref().and_then(|status| status.hard.clone());
    let of_spec = || quota.spec.as_ref().and_then(|spec| spec.hard.clone());
    of_status.or_else(of_spec).unwrap_or_default()
}

/// What every container has to state where a quota has this key.
fn demanded_by(key: &str) -> Option<(Field, &'static str)> {
    counted_by(key).filter(|(_, name)| *name != "ephemeral-storage")
}

fn counted_by(key: &str) -> Option<(Field, &'static str)> {
    let (field, name) = match key.split_once('.') {
        Some(("limits", name)) => (Field::Limits, name),
        Some(("requests", name)) => (Field::Requests, name),
        _ => (Field::Requests, key),
    };
    NAMES
        .into_iter()
        .find(|known| *known == name)
        .map(|name| (field, name))
}

/// QoS class BestEffort: nothing of the pod states CPU or memory.
fn is_best_effort(spec: &PodSpec) -> bool {
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    containers
        .filter_map(|container| container.resources.as_ref())
        .chain(&spec.resources)
        .all(is_best_effort_container)
}

fn is_best_effort_container(resources: &ResourceRequirements) -> bool {
    let states = |field, name| amount(resources, field, name).is_some_and(|amount| amount > 0);
    !["cpu", "memory"]
        .into_iter()
        .any(|name| states(Field::Requests, name) || states(Field::Limits, name))
}

fn is_below(amount: Option<i128>, other: Option<i128>) -> bool {
    matches!((amount, other), (Some(amount), Some(other)) if amount < other)
}

fn is_above_ratio(limit: i128, request: Option<i128>, ratio: i128) -> bool {
    request.is_none_or(|request| request == 0 || limit * NANO > request * ratio)
}

fn quantity<'a>(resources: &'a ResourceRequirements, field: Field, name: &str) -> Option<&'a Quantity> {
    let quantities = match field {
        Field::Requests => &resources.requests,
        Field::Limits => &resources.limits,
    };
    quantities.as_ref()?.get(name)
}

fn amount(resources: &ResourceRequirements, field: Field, name: &str) -> Option<i128> {
    nano_units(&quantity(resources, field, name)?.0)
}

fn quantities_mut(resources: &mut ResourceRequirements, field: Field) -> &mut BTreeMap<String, Quantity> {
    match field {
        Field::Requests => resources.requests.get_or_insert_default(),
        Field::Limits => resources.limits.get_or_insert_default(),
    }
}

/// In whole units or in thousandths, rounded up.
fn shown(nano: i128) -> Quantity {
    let milli = NANO / 1000;
    match nano % NANO {
        0 => Quantity((nano / NANO).to_string()),
        _ => Quantity(format!("{}m", (nano + milli - 1) / milli)),
    }
}

#[cfg(test)]
mod tests;
