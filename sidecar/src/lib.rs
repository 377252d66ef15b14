//! The sidecar beside LiteLLM. This half controls: it learns routes and credentials from the operator
//! ([`follow`]), renders LiteLLM's configuration ([`overlay`]), looks after LiteLLM ([`litellm`],
//! [`listening`]) and answers Kubernetes ([`health`], [`drain`]). [`control`] decides what follows from what, and
//! [`serve`] puts it all together from [`args`].

pub mod args;
pub mod control;
pub mod drain;
pub mod follow;
pub mod health;
pub mod listening;
pub mod litellm;
pub mod overlay;
pub mod serve;
