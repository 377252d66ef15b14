//! The sidecar beside LiteLLM. This half controls: it learns routes and credentials from the operator
//! ([`follow`]), renders LiteLLM's configuration ([`overlay`]), tells Kubernetes how it is doing ([`health`],
//! [`listening`], [`drain`]), and [`serve`] puts it all together from [`args`].

pub mod drain;
pub mod follow;
pub mod health;
pub mod listening;
pub mod litellm;
pub mod overlay;
