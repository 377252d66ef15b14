//! User-token cache: what there is for each user, decided: a token, a failure that is still fresh, a request
//! under way, or nothing. No request is made here.

use std::sync::{Arc, Weak};
use std::time::Duration;

use mcp_auth_resilience::single_flight::{AllInFlight, InFlight, Lookup, SingleFlightCache, StartedRequest};
use oauth2::basic::BasicErrorResponseType;

use super::affected_users::AffectedUsers;
use super::byte_budget::{BudgetShare, ByteBudget};
use super::quota::{QuotaShare, ResourceQuota, UserTokenLimit, UserTokenQuotas};
use super::{TokenResult, User};
use crate::clock::{time_after, time_before};
use crate::renewal::breaker::Breaker;
use crate::renewal::deadline::Deadline;
use crate::renewal::rejection_backoff::RejectionBackoff;
use crate::renewal::schedule;
use crate::{Circuit, Clock, Error, ErrorCode, Policy, Token};

/// How long before its end a token is not handed out any more: a call has to reach its server with it.
const MAX_MARGIN: Duration = Duration::from_secs(30);
/// How long a token of unknown life is kept.
const MAX_UNKNOWN_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// How long it is believed that a user's own token is not accepted.
const REJECTION_CACHE_TIME: Duration = Duration::from_secs(30);

pub(super) enum CacheLookup {
    Token(Arc<Token>),
    Failure(Error),
    InFlight(InFlight<TokenResult>),
    /// A request is to be made, of this number.
    Miss(u64, StartedRequest<TokenResult>),
}

pub(super) struct UserTokenCache {
    max_bytes: usize,
    policy: Policy,
    clock: Clock,
    users: SingleFlightCache<User, UserEntry, TokenResult>,
    /// Of the tokens and errors of all users.
    budget: ByteBudget,
    /// Of the tokens of all resources of the tenant.
    quota: ResourceQuota,
    /// Counts failures of distinct users: some servers answer 500 to what one user sends as their token, however
    /// often that is asked for.
    breaker: Breaker,
    affected_users: AffectedUsers,
    /// What opened the circuit, and when it may be tried again.
    circuit_error: Option<(Error, Deadline)>,
    /// The request that probes whether the server answers again.
    probe: Option<u64>,
    requests: u64,
}

#[derive(Default)]
struct UserEntry {
    token: Option<CachedToken>,
    failed: Option<CachedFailure>,
    failures: u32,
    rejections: RejectionBackoff,
}

struct CachedToken {
    token: Arc<Token>,
    /// When it is requested anew.
    refresh_at: Deadline,
    /// When it is over. `None`: the server does not say.
    expires_at: Option<Deadline>,
    /// The MCP server rejected it: when it is dropped.
    drop_at: Option<Deadline>,
    _share: BudgetShare,
    _quota_share: QuotaShare,
}

struct CachedFailure {
    error: Error,
    until: Deadline,
    _share: BudgetShare,
}

impl UserTokenCache {
    pub fn new(capacity: usize, max_bytes: usize, policy: Policy, clock: Clock) -> Self {
        Self {
            max_bytes,
            policy,
            clock,
            users: SingleFlightCache::new(capacity),
            budget: ByteBudget::default(),
            quota: UserTokenQuotas::default().of_tenant("").of_resource(Weak::new()),
            breaker: Breaker::default(),
            affected_users: AffectedUsers::default(),
            circuit_error: None,
            probe: None,
            requests: 0,
        }
    }

    /// Before there is any token.
    pub fn set_quota(&mut self, quota: ResourceQuota) {
        self.quota = quota;
    }

    pub fn quota(&self) -> ResourceQuota {
        self.quota.clone()
    }

    pub fn limited_to(&self) -> Option<UserTokenLimit> {
        self.quota.limited_to()
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }

    pub fn circuit(&self) -> Circuit {
        self.breaker.circuit
    }

    /// What there is for this user now. Where it is nothing, a request is under way from now on.
    pub fn find(&mut self, user: User) -> CacheLookup {
        let mut token = None;
        if let Some(Lookup {
            value: entry,
            in_flight,
        }) = self.users.lookup(&user)
        {
            if let Some(cached) = entry.usable(&self.clock) {
                if !cached.refresh_at.has_passed(&self.clock) {
                    return CacheLookup::Token(Arc::clone(&cached.token));
                }
                token = Some(Arc::clone(&cached.token));
            }
            if let Some(in_flight) = in_flight {
                return CacheLookup::InFlight(in_flight.clone());
            }
            if let Some(failed) = entry
                .failed
                .as_ref()
                .filter(|failed| !failed.until.has_passed(&self.clock))
            {
                let failed = CacheLookup::Failure(failed.error.clone());
                return token.map_or(failed, CacheLookup::Token);
            }
        }
        self.start_request(user).unwrap_or_else(|error| match token {
            // A token that is near its end is better than none.
            Some(token) => CacheLookup::Token(token),
            None => CacheLookup::Failure(error),
        })
    }

    /// A request came to its end. Returns what those get who wait for it.
    pub fn finish_request(&mut self, user: User, request_id: u64, outcome: TokenResult) -> TokenResult {
        let now = self.clock.now();
        self.record_outcome(user, request_id, &outcome);
        let Some(entry) = self.users.finish(user) else {
            return outcome;
        };
        let outcome = match outcome {
            Ok(token) => {
                entry.rejections.token_replaced(now, entry.token.is_some());
                entry.token = Some(CachedToken::new(
                    Arc::clone(&token),
                    &self.clock,
                    &self.budget,
                    &self.quota,
                ));
                entry.failed = None;
                entry.failures = 0;
                Ok(token)
            }
            Err(error) => {
                entry.failures = entry.failures.saturating_add(1);
                let until = match is_user_error(&error) {
                    true => time_after(now, REJECTION_CACHE_TIME),
                    false => {
                        let retry_after = error.retry_after();
                        schedule::retry_at(
                            now,
                            entry.failures,
                            retry_after,
                            schedule::MAX_BACKOFF,
                            &self.policy,
                        )
                    }
                };
                entry.failed = Some(CachedFailure {
                    error: error.clone(),
                    until: Deadline::at(until, &self.clock),
                    // What a server said is in the message.
                    _share: self.budget.put(error.to_string().len()),
                });
                match entry.usable(&self.clock) {
                    Some(cached) => Ok(Arc::clone(&cached.token)),
                    None => Err(error),
                }
            }
        };
        self.evict_to_budget();
        outcome
    }

    /// A token that was exchanged elsewhere, where there is neither one for this user nor a request under way.
    pub fn insert_if_unknown(&mut self, user: User, token: Arc<Token>) {
        if self.users.lookup(&user).is_some() {
            return;
        }
        // What begins and ends a request makes room for its outcome.
        if self.users.start(user).is_ok()
            && let Some(entry) = self.users.finish(user)
        {
            entry.token = Some(CachedToken::new(token, &self.clock, &self.budget, &self.quota));
            self.evict_to_budget();
        }
    }

    /// The MCP server refused this token of the user.
    pub fn reject(&mut self, user: User, token_id: &str) {
        let Some(entry) = self.users.get_mut(&user) else {
            return;
        };
        let cached = entry.token.as_mut().filter(|cached| cached.token.id == token_id);
        if let Some(cached) = cached.filter(|cached| cached.drop_at.is_none()) {
            let retry_at = entry.rejections.reject(self.clock.now(), self.policy.random);
            cached.drop_at = Some(Deadline::at(retry_at, &self.clock));
        }
    }

    /// Failures so far say nothing any more.
    pub fn reset_failures(&mut self) {
        self.close_circuit();
        for (_, entry) in self.users.iter_mut() {
            entry.failed = None;
            entry.failures = 0;
            entry.rejections.reset();
        }
    }

    /// Why no request can be made now, if none can.
    fn denied(&self) -> Option<Error> {
        let (error, until) = self.circuit_error.as_ref()?;
        let open = self.probe.is_some() || !until.has_passed(&self.clock);
        open.then(|| error.clone())
    }

    /// Drops the tokens that have expired.
    pub fn drop_expired(&mut self) {
        for (_, entry) in self.users.iter_mut() {
            entry.usable(&self.clock);
        }
    }

    /// Drops what is known of the user seen least recently. `false`: there is none without a request under way.
    pub fn evict(&mut self) -> bool {
        self.users.evict()
    }

    /// Keeps within the bytes there may be, by evicting the least recently used one. Those with a request under way stay: they
    /// had room before, so what came to be too much is what has come since.
    fn evict_to_budget(&mut self) {
        while self.budget.total() > self.max_bytes && self.evict() {}
    }

    fn start_request(&mut self, user: User) -> Result<CacheLookup, Error> {
        if let Some(error) = self.denied() {
            return Err(error);
        }
        let started = self
            .users
            .start(user)
            .map_err(|AllInFlight| Error::TooManyAtOnce)?;
        self.requests += 1;
        let request_id = self.requests;
        if self.circuit_error.is_some() {
            self.breaker.probe();
            self.probe = Some(request_id);
        }
        Ok(CacheLookup::Miss(request_id, started))
    }

    /// What an outcome says of the server. It works if it answers, even if the answer is that it does not
    /// accept a user.
    fn record_outcome(&mut self, user: User, request_id: u64, outcome: &TokenResult) {
        let probed = self.probe.take_if(|probe| *probe == request_id).is_some();
        match outcome {
            Err(error) if !is_user_error(error) => {
                // Those that were under way when the circuit opened say nothing new.
                if self.circuit_error.is_some() && !probed {
                    return;
                }
                let is_another_user = self.affected_users.insert(user);
                if !is_another_user && error.retry_after().is_none() {
                    // This user's own backoff is all that it takes. Where it was the probe, another user's
                    // request may tell more.
                    self.breaker.probe_again(self.clock.now());
                    return;
                }
                let until = self
                    .breaker
                    .failed(self.clock.now(), error, schedule::MAX_BACKOFF, &self.policy);
                if let Circuit::Open { .. } = self.breaker.circuit {
                    tracing::warn!(reason = error.reason(), %until, "no tokens for users are asked for");
                    self.circuit_error = Some((error.clone(), Deadline::at(until, &self.clock)));
                }
            }
            _ => self.close_circuit(),
        }
    }

    fn close_circuit(&mut self) {
        self.breaker.close();
        self.affected_users.clear();
        (self.circuit_error, self.probe) = (None, None);
    }
}

impl UserEntry {
    /// The token, if it is neither over nor to be dropped.
    fn usable(&mut self, clock: &Clock) -> Option<&CachedToken> {
        let has_passed =
            |deadline: Option<Deadline>| deadline.is_some_and(|deadline| deadline.has_passed(clock));
        if let Some(cached) = self
            .token
            .take_if(|cached| has_passed(cached.expires_at) || has_passed(cached.drop_at))
        {
            if cached.drop_at.is_none() {
                // It was good to its end.
                self.rejections.reset();
            }
            self.rejections.token_lost();
        }
        self.token.as_ref()
    }
}

impl CachedToken {
    fn new(token: Arc<Token>, clock: &Clock, budget: &ByteBudget, quota: &ResourceQuota) -> Self {
        let refresh_at = match token.expires_at {
            Some(end) => time_before(end, (token.life() / 10).min(MAX_MARGIN)),
            None => time_after(clock.now(), MAX_UNKNOWN_LIFETIME),
        };
        Self {
            refresh_at: Deadline::at(refresh_at, clock),
            expires_at: token.expires_at.map(|end| Deadline::at(end, clock)),
            drop_at: None,
            _share: budget.put(bytes(&token)),
            _quota_share: quota.put(bytes(&token)),
            token,
        }
    }
}

/// Of what a server may make long.
fn bytes(token: &Token) -> usize {
    let scope = token.scope.as_ref().map_or(0, String::len);
    let mismatch = token
        .mismatch
        .as_ref()
        .map_or(0, |mismatch| mismatch.to_string().len());
    token.access_token.secret().len() + scope + mismatch
}

/// Whether an error may be about the user's token rather than about the client or the server: what a single
/// user can bring about by what is sent as their token must not keep the others from theirs. RFC 8693 section
/// 2.2.2 answers a token that is not accepted with `invalid_request`; gateways before the server look at it
/// too, and answer by status.
fn is_user_error(error: &Error) -> bool {
    match error {
        Error::Rejected(rejection) => {
            rejection.retry_after.is_none()
                && matches!(
                    rejection.code,
                    ErrorCode::Basic(BasicErrorResponseType::InvalidRequest)
                        | ErrorCode::Basic(BasicErrorResponseType::InvalidGrant)
                        | ErrorCode::Basic(BasicErrorResponseType::InvalidScope)
                        | ErrorCode::InvalidTarget
                        | ErrorCode::AccessDenied
                        | ErrorCode::Basic(BasicErrorResponseType::Extension(_))
                )
        }
        Error::HttpStatus {
            status: status @ 400..500,
            retry_after: None,
        } => !matches!(status, 401 | 404 | 405 | 408 | 410 | 429),
        Error::ExpiredOnArrival { .. }
        | Error::TooLarge { .. }
        | Error::NotJson { .. }
        | Error::NoAccessToken { .. }
        | Error::UnsupportedTokenType { .. }
        | Error::NoIdJag
        | Error::TokenMismatch(_) => true,
        Error::IdentityProvider(error) => is_user_error(error),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
