//! The cache by itself, and against a list of everything that was said.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::rdata::A;
use proptest::prelude::*;

use super::*;

fn question(name: &str, kind: RecordType) -> Question {
    Question { name: Name::from_ascii(name).unwrap(), kind, signed: false }
}

fn stored(code: ResponseCode, addresses: u8, ttl: u64, at: Instant) -> Arc<Stored> {
    let record = |last| {
        let name = Name::from_ascii("a.example.").unwrap();
        Record::from_rdata(name, u32::try_from(ttl).unwrap(), RData::A(A(Ipv4Addr::new(192, 0, 2, last))))
    };
    Arc::new(Stored {
        code,
        answers: (0..addresses).map(record).collect(),
        authorities: Vec::new(),
        from: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53),
        at,
        ttl: Duration::from_secs(ttl),
    })
}

fn cache() -> Cache {
    Cache::new(CacheSettings::default())
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_answer_is_good_for_its_ttl_and_then_stale() {
    let (mut cache, now, asked) = (cache(), Instant::now(), question("a.example.", RecordType::A));
    cache.store(&asked, stored(ResponseCode::NoError, 1, 60, now));
    assert!(matches!(cache.find(&asked, now + seconds(59)), Found::Fresh(..)));
    assert!(matches!(cache.find(&asked, now + seconds(60)), Found::Stale(_, None)));
    assert!(matches!(cache.find(&asked, now + seconds(60 + 86_400)), Found::Nothing));
    assert!(matches!(cache.find(&question("a.example.", RecordType::AAAA), now), Found::Nothing));
}

#[test]
fn ttls_count_down_and_stale_answers_say_half_a_minute() {
    let now = Instant::now();
    let stored = stored(ResponseCode::NoError, 1, 60, now);
    let ttl = |reply: Reply| reply.answers[0].ttl;
    assert_eq!(ttl(stored.reply(now + seconds(20), Origin::Cache(seconds(20)), 0)), 40);
    assert_eq!(ttl(stored.reply(now + seconds(90), Origin::Stale(seconds(90)), 0)), 30);
}

#[test]
fn what_is_not_to_be_remembered_is_not() {
    let (mut cache, now, asked) = (cache(), Instant::now(), question("a.example.", RecordType::A));
    cache.store(&asked, stored(ResponseCode::NoError, 1, 0, now));
    assert!(matches!(cache.find(&asked, now), Found::Nothing));
    assert_eq!(cache.bytes, 0);
}

#[test]
fn that_there_is_no_such_name_holds_for_every_type() {
    let (mut cache, now) = (cache(), Instant::now());
    let (a, aaaa) = (question("a.example.", RecordType::A), question("a.example.", RecordType::AAAA));
    cache.store(&a, stored(ResponseCode::NXDomain, 0, 60, now));
    assert!(matches!(cache.find(&aaaa, now), Found::Fresh(..)));
    // Until somebody says otherwise.
    cache.store(&aaaa, stored(ResponseCode::NoError, 1, 60, now));
    assert!(matches!(cache.find(&a, now), Found::Nothing));
    // That there are no records of a type holds for that type.
    cache.store(&aaaa, stored(ResponseCode::NoError, 0, 60, now));
    assert!(matches!(cache.find(&a, now), Found::Nothing));
}

#[test]
fn a_ttl_is_limited_by_the_settings() {
    let settings =
        CacheSettings { max_ttl: seconds(10), max_negative_ttl: seconds(5), ..CacheSettings::default() };
    let (mut cache, now) = (Cache::new(settings), Instant::now());
    let (a, b) = (question("a.example.", RecordType::A), question("b.example.", RecordType::A));
    cache.store(&a, stored(ResponseCode::NoError, 1, 3600, now));
    cache.store(&b, stored(ResponseCode::NXDomain, 0, 3600, now));
    assert!(matches!(cache.find(&a, now + seconds(9)), Found::Fresh(..)));
    assert!(matches!(cache.find(&a, now + seconds(10)), Found::Stale(..)));
    assert!(matches!(cache.find(&b, now + seconds(4)), Found::Fresh(..)));
    assert!(matches!(cache.find(&b, now + seconds(5)), Found::Stale(..)));
    let Found::Fresh(stored, _) = cache.find(&a, now) else { panic!("forgotten") };
    assert_eq!(stored.reply(now, Origin::Cache(Duration::ZERO), 0).answers[0].ttl, 10);
}

#[test]
fn a_failure_is_remembered_for_a_second_beside_the_answer() {
    let (mut cache, now, asked) = (cache(), Instant::now(), question("a.example.", RecordType::A));
    cache.fail(&asked, Failure::new("dead"), now);
    assert!(matches!(cache.find(&asked, now), Found::Failed(_)));
    assert!(matches!(cache.find(&asked, now + FAILURE_LASTS), Found::Nothing));
    cache.store(&asked, stored(ResponseCode::NoError, 1, 10, now));
    cache.fail(&asked, Failure::new("dead"), now + seconds(20));
    assert!(matches!(cache.find(&asked, now + seconds(20)), Found::Stale(_, Some(_))));
    assert!(matches!(cache.find(&asked, now + seconds(21)), Found::Stale(_, None)));
}

#[test]
fn what_is_asked_often_is_to_be_fetched_before_its_time_is_over() {
    let (mut cache, now) = (cache(), Instant::now());
    let (hot, cold) = (question("hot.example.", RecordType::A), question("cold.example.", RecordType::A));
    for asked in [&hot, &cold] {
        cache.store(asked, stored(ResponseCode::NoError, 1, 100, now));
    }
    assert!(matches!(cache.find(&hot, now), Found::Fresh(_, false)));
    assert!(matches!(cache.find(&hot, now + seconds(80)), Found::Fresh(_, false)));
    assert!(matches!(cache.find(&hot, now + seconds(95)), Found::Fresh(_, true)));
    assert!(matches!(cache.find(&cold, now + seconds(95)), Found::Fresh(_, false)));
}

#[test]
fn memory_is_bounded_and_what_is_asked_for_stays() {
    let settings = CacheSettings { bytes: 100_000, ..CacheSettings::default() };
    let (mut cache, now) = (Cache::new(settings), Instant::now());
    let wanted = question("wanted.example.", RecordType::A);
    cache.store(&wanted, stored(ResponseCode::NoError, 1, 3600, now));
    for number in 0..10_000 {
        assert!(matches!(cache.find(&wanted, now), Found::Fresh(..)), "forgotten after {number}");
        let name = format!("random{number}.example.");
        cache.store(&question(&name, RecordType::A), stored(ResponseCode::NXDomain, 0, 3600, now));
        assert!(cache.bytes <= 100_000 && cache.slots.len() == cache.round.len());
    }
    let counted: usize = cache.slots.iter().map(|(key, slot)| cost(key, slot.stored.as_deref())).sum();
    assert_eq!(cache.bytes, counted);
    assert!(cache.size().evicted > 9_000);
}

#[test]
fn a_domain_is_forgotten() {
    let (mut cache, now) = (cache(), Instant::now());
    let (a, b) = (question("a.corp.example.", RecordType::A), question("b.example.", RecordType::A));
    cache.store(&a, stored(ResponseCode::NoError, 1, 60, now));
    cache.store(&b, stored(ResponseCode::NoError, 1, 60, now));
    let corp = Name::from_ascii("corp.example.").unwrap();
    cache.forget(|name| corp.zone_of(name));
    assert!(matches!(cache.find(&a, now), Found::Nothing));
    assert!(matches!(cache.find(&b, now), Found::Fresh(..)));
    cache.forget(|_| true);
    assert_eq!((cache.bytes, cache.round.len()), (0, 0));
}

#[test]
fn each_address_comes_first_in_turn() {
    let now = Instant::now();
    let stored = stored(ResponseCode::NoError, 3, 60, now);
    let first = |turn| stored.first_reply(now, turn).answers[0].data.clone();
    assert_eq!(first(0), first(3));
    assert!(first(0) != first(1) && first(1) != first(2) && first(0) != first(2));
}

/// What was said last of each question, and when, without a thought for memory.
#[derive(Default)]
struct Naive {
    said: Vec<(Question, ResponseCode, usize, Instant, Duration)>,
    failed: Vec<(Question, Instant)>,
}

impl Naive {
    fn store(&mut self, asked: &Question, stored: &Stored, settings: &CacheSettings) {
        let (code, count) = (stored.code, stored.answers.len());
        let no_name = |code: ResponseCode, count: usize| code == ResponseCode::NXDomain && count == 0;
        let most = if count == 0 { settings.max_negative_ttl } else { settings.max_ttl };
        // Of the same question; and "no such name" and everything else contradict each other.
        let replaced = |said: &(Question, ResponseCode, usize, Instant, Duration)| {
            said.0 == *asked || said.0.name == asked.name && no_name(said.1, said.2)
        };
        self.said.retain(|said| !replaced(said));
        self.failed.retain(|(question, _)| question != asked);
        let ttl = stored.ttl.min(most);
        if ttl > Duration::ZERO {
            self.said.push((asked.clone(), code, count, stored.at, ttl));
        }
    }

    /// What is known, whether it is good still, the best first; and whether it failed lately.
    fn find(&self, asked: &Question, now: Instant, stale_for: Duration) -> (Vec<(bool, ResponseCode)>, bool) {
        let of = |said: &&(Question, ResponseCode, usize, Instant, Duration)| {
            said.0 == *asked || said.0.name == asked.name && said.1 == ResponseCode::NXDomain && said.2 == 0
        };
        let known = self.said.iter().filter(of).filter(|said| now < said.3 + said.4 + stale_for);
        // Of two that are as good, what was said of this very type.
        let mut known: Vec<_> =
            known.map(|said| ((now < said.3 + said.4, said.0 == *asked), said.1)).collect();
        known.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        let failed = self.failed.iter().any(|(question, until)| question == asked && now < *until);
        (known.into_iter().map(|((fresh, _), code)| (fresh, code)).collect(), failed)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store { name: u8, kind: u8, code: u8, count: u8, ttl: u64 },
    Fail { name: u8, kind: u8 },
    Find { name: u8, kind: u8 },
    Pass(u64),
    Forget(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4_u8, 0..3_u8, 0..3_u8, 0..2_u8, 0..200_u64)
            .prop_map(|(name, kind, code, count, ttl)| Step::Store { name, kind, code, count, ttl }),
        2 => (0..4_u8, 0..3_u8).prop_map(|(name, kind)| Step::Fail { name, kind }),
        6 => (0..4_u8, 0..3_u8).prop_map(|(name, kind)| Step::Find { name, kind }),
        3 => (0..3000_u64).prop_map(Step::Pass),
        1 => (0..4_u8).prop_map(Step::Forget),
    ];
    proptest::collection::vec(step, 1..80)
}

fn asked(name: u8, kind: u8) -> Question {
    let kinds = [RecordType::A, RecordType::AAAA, RecordType::MX];
    question(&format!("n{name}.example."), kinds[usize::from(kind)])
}

proptest! {
    #[test]
    fn it_knows_what_a_list_of_everything_knows(steps in steps(), tight in any::<bool>()) {
        // With little room it may know less, and never something else.
        let bytes = if tight { 3000 } else { 1 << 20 };
        let settings = CacheSettings {
            bytes, max_ttl: seconds(100), max_negative_ttl: seconds(50), stale_for: seconds(2), prefetch: true,
        };
        let (mut cache, mut naive, mut now) = (Cache::new(settings.clone()), Naive::default(), Instant::now());
        for step in steps {
            match step {
                Step::Store { name, kind, code, count, ttl } => {
                    let code = if code == 0 { ResponseCode::NXDomain } else { ResponseCode::NoError };
                    let answer = stored(code, if code == ResponseCode::NXDomain { 0 } else { count }, ttl, now);
                    naive.store(&asked(name, kind), &answer, &settings);
                    cache.store(&asked(name, kind), answer);
                }
                Step::Fail { name, kind } => {
                    naive.failed.retain(|(question, _)| *question != asked(name, kind));
                    naive.failed.push((asked(name, kind), now + FAILURE_LASTS));
                    cache.fail(&asked(name, kind), Failure::new("dead"), now);
                }
                Step::Find { name, kind } => {
                    let (known, failed) = naive.find(&asked(name, kind), now, settings.stale_for);
                    let found = match cache.find(&asked(name, kind), now) {
                        Found::Fresh(stored, _) => (Some((true, stored.code)), None),
                        Found::Stale(stored, failure) => (Some((false, stored.code)), Some(failure.is_some())),
                        Found::Failed(_) => (None, Some(true)),
                        Found::Nothing => (None, Some(false)),
                    };
                    if tight {
                        prop_assert!(found.0.is_none_or(|found| known.contains(&found)));
                    } else {
                        prop_assert_eq!(found.0, known.first().copied());
                        // A good answer hides that it could not be had lately.
                        prop_assert!(found.1.is_none_or(|found| found == failed));
                    }
                }
                Step::Pass(millis) => now += Duration::from_millis(millis),
                Step::Forget(name) => {
                    let gone = asked(name, 0).name;
                    cache.forget(|name| *name == gone);
                    naive.said.retain(|said| said.0.name != gone);
                    naive.failed.retain(|(question, _)| question.name != gone);
                }
            }
            let counted: usize = cache.slots.iter().map(|(key, slot)| cost(key, slot.stored.as_deref())).sum();
            prop_assert_eq!(cache.bytes, counted);
            prop_assert!(cache.bytes <= bytes && cache.round.len() == cache.slots.len());
        }
    }
}
