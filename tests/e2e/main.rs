//! End to end: the chart, the operator, the sidecar and a real LiteLLM on a real cluster, with what a user,
//! an administrator or a thief would notice. The tests share one ground (see [`ground`]), so that LiteLLM,
//! which takes its time, starts seldom. They run one after the other by name: `traces` looks at what the
//! others left behind, and `uninstall` takes the operator away for good.

mod chart_upgrade;
mod client;
mod command;
mod cookies;
mod drain;
mod faults;
mod ground;
mod helm_test;
mod litellm;
mod mesh;
mod outage;
mod refusals;
mod restarts;
mod rollout;
mod shapes;
mod timeline;
mod traces;
mod uninstall;
