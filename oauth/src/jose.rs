//! JOSE: private keys that sign (RFC 7515, RFC 7517) and the assertions that are signed with them (RFC 7523).

pub(crate) mod assertion;
pub(crate) mod service_account_key;
pub(crate) mod signing_key;
