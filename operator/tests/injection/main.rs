//! Injection, from outside: every pod in `testdata` through the whole decision.

mod api_server;
mod documentation;
mod input;
mod properties;
mod snapshots;
