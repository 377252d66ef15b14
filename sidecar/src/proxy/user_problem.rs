//! Why an audit line names no user.

use serde::Serialize;

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum UserProblem {
    /// The request has no such cookie or header.
    Missing,
    /// The value is no JSON Web Token.
    NotAJwt,
    /// The token has no such claim, or one that is no text and no number.
    ClaimMissing,
    /// The issuer's keys could not be fetched yet.
    NoKeys,
    /// The token is signed in a way that is not verified, or not at all.
    AlgorithmUnsupported,
    /// The issuer has no key of the token's `kid` and algorithm.
    UnknownKey,
    /// None of the issuer's keys has made the signature.
    SignatureInvalid,
    OtherIssuer,
    OtherAudience,
    Expired,
    NotYetValid,
}
