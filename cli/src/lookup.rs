//! What came of looking something up: a right that is lacking is a fact like others, and only a cluster that stops
//! answering ends a command.

use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::cluster::Cluster;
use crate::error::CliError;

#[derive(Clone, Debug, PartialEq)]
pub enum Lookup<T> {
    Found(T),
    Missing,
    /// It could not be looked up, and why.
    Unknown(String),
}

impl<T> Lookup<T> {
    pub fn map<U>(self, to: impl FnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Found(found) => Lookup::Found(to(found)),
            Self::Missing => Lookup::Missing,
            Self::Unknown(why) => Lookup::Unknown(why),
        }
    }
}

/// Looks one object up.
pub async fn get<K>(cluster: &Cluster, api: &Api<K>, name: &str) -> Result<Lookup<K>, CliError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let action = format!("read the {} {name}", K::kind(&()));
    Ok(match known(cluster.answer(&action, api.get_opt(name)).await)? {
        Lookup::Found(Some(object)) => Lookup::Found(object),
        Lookup::Found(None) | Lookup::Missing => Lookup::Missing,
        Lookup::Unknown(why) => Lookup::Unknown(why),
    })
}

pub fn known<T>(answer: Result<T, CliError>) -> Result<Lookup<T>, CliError> {
    match answer {
        Ok(found) => Ok(Lookup::Found(found)),
        Err(CliError::Forbidden { action, .. }) => Ok(Lookup::Unknown(format!("you may not {action}"))),
        Err(error) => Err(error),
    }
}
