//! One question to the servers of a route: the best is asked, the next when it should have answered, and the first good answer
//! counts.

use std::{sync::Arc, time::Duration};

use hickory_proto::{op::ResponseCode, rr::Name};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    Failure,
    routes::{Route, Routes},
    upstream::{
        ExchangeError, Upstream,
        check::{Said, believe},
    },
};
use crate::question::Question;

/// Where all servers are down, one that has come back answers within this; nobody waits longer for it.
const PATIENCE_WITH_DEAD: Duration = Duration::from_millis(300);

type Outcome = (Arc<Upstream>, Result<Said, ExchangeError>);

/// Asks the servers of `route`, until `deadline`.
///
/// # Errors
/// When none of them answered.
pub(super) async fn race(
    routes: &Arc<Routes>,
    route: &Route,
    question: &Question,
    deadline: Instant,
) -> Result<Said, Failure> {
    let mut waiting = route.by_rank().into_iter();
    let mut running = JoinSet::new();
    let mut failure = None;
    let all_down = route.is_down();
    let until = if all_down { deadline.min(Instant::now() + PATIENCE_WITH_DEAD) } else { deadline };
    let mut next_at = start(&mut running, waiting.next(), routes, question, until);
    if all_down {
        while waiting.len() > 0 {
            start(&mut running, waiting.next(), routes, question, until);
        }
    }
    while !running.is_empty() {
        tokio::select! {
            Some(ended) = running.join_next() => {
                let failed = match ended {
                    Ok((_, Ok(said @ (Said::Answer(_) | Said::Alias(..))))) => {
                        // The others go on: whether they answer at all is worth knowing.
                        running.detach_all();
                        return Ok(said);
                    }
                    Ok(outcome) => failure_of(outcome),
                    Err(error) => Failure::new(format!("asking panicked: {error}")),
                };
                failure = Some(failed);
                if let Some(next) = waiting.next() {
                    next_at = start(&mut running, Some(next), routes, question, deadline);
                }
            }
            () = sleep_until(next_at), if waiting.len() > 0 => {
                next_at = start(&mut running, waiting.next(), routes, question, deadline);
            }
            () = sleep_until(until) => break,
        }
    }
    running.detach_all();
    Err(failure.unwrap_or_else(|| {
        let asked: Vec<String> = route.upstreams.iter().map(|one| one.server().to_string()).collect();
        match asked.as_slice() {
            [] => Failure::new("there is no server to ask"),
            _ if route.upstreams.iter().all(|one| one.is_looping()) => Failure::new(route.why_down()),
            _ => Failure::new(format!("{} did not answer in time", asked.join(", "))),
        }
    }))
}

/// Asks one more; when the one after it is to be asked.
fn start(
    running: &mut JoinSet<Outcome>,
    upstream: Option<Arc<Upstream>>,
    routes: &Arc<Routes>,
    question: &Question,
    deadline: Instant,
) -> Instant {
    let Some(upstream) = upstream else { return deadline };
    let next_at = Instant::now() + upstream.expected();
    let (routes, question) = (Arc::clone(routes), question.clone());
    running.spawn(async move {
        let answer = upstream.ask(&question, deadline).await;
        let domain = &routes.of(&question.name).domain;
        let is_theirs = |name: &Name| !routes.is_own(name) && routes.of(name).domain == *domain;
        let from = upstream.server().address;
        let said = answer.map(|message| believe(message, &question, from, is_theirs));
        (upstream, said)
    });
    next_at
}

fn failure_of((upstream, outcome): Outcome) -> Failure {
    let server = upstream.server();
    match outcome {
        Ok(Said::Refusal(code)) => {
            let why = format!("{server} answered {}", super::counts::code_name(code));
            // What we asked is in order, whatever it thinks of it.
            let code = if code == ResponseCode::FormErr { ResponseCode::ServFail } else { code };
            Failure { code, why: why.into() }
        }
        Ok(Said::Referral) => {
            Failure::new(format!("{server} named other servers instead of answering: it does not recurse"))
        }
        Ok(_) => Failure::new(format!("{server} answered")),
        Err(error) => Failure::new(format!("{server} {error}")),
    }
}
