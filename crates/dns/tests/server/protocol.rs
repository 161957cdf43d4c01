//! Messages: what is understood, what is refused, how long answers are.

use std::io::Write as _;

use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use weft_dns::server::{Limits, Settings};
use weft_model::dns::Zone;

use crate::support::{
    Client, Place, STRANGER, endpoint, framed, headless, hear_service, hear_slice, namespace, question,
    records, reply, service, slice, with_edns,
};

const WEB: &str = "web.default.svc.cluster.local.";
const BIG: &str = "big.default.svc.cluster.local.";

fn with_web(zone: &mut Zone) {
    zone.hear_namespace(&namespace("default"));
    hear_service(zone, service("web"));
}

/// A headless Service of so many endpoints.
fn with_big(zone: &mut Zone, count: usize) {
    hear_service(zone, headless("big"));
    let address = |i: usize| format!("10.{}.{}.{}", i / 65_536, i / 256 % 256, i % 256);
    let endpoints: Vec<_> = (0..count).map(|i| endpoint(&address(i), None)).collect();
    hear_slice(zone, slice("big-x", "big", &endpoints));
}

#[test]
fn the_answer_has_the_questions_own_letters() {
    let place = Place::new(with_web);
    let asked = "wEb.DeFaUlT.sVc.ClUsTeR.lOcAl.";
    let answer = place.client().exchange(&question(asked, "A"));
    assert_eq!(answer.queries[0].name().to_string(), asked);
    assert_eq!(records(&answer), [format!("{asked} 5 A 10.96.0.1")]);
    place.outside.says("example.com.", RecordType::A, &["192.0.2.1"]);
    let answer = place.client().exchange(&question("eXample.COM.", "A"));
    assert_eq!(records(&answer), ["eXample.COM. 300 A 192.0.2.1"]);
}

#[test]
fn answers_carry_the_number_and_the_flags_of_the_question() {
    let place = Place::new(with_web);
    let mut asked = question(WEB, "A");
    asked.metadata.checking_disabled = true;
    let answer = place.client().exchange(&asked).metadata;
    assert!(
        answer.authoritative
            && answer.recursion_available
            && answer.recursion_desired
            && answer.checking_disabled
    );
    assert!(!answer.truncation && !answer.authentic_data);
    asked.metadata.recursion_desired = false;
    assert!(!place.client().exchange(&asked).metadata.recursion_desired);
    let outside = place.client().exchange(&question("example.com.", "A")).metadata;
    assert!(!outside.authoritative && outside.recursion_available);
}

#[test]
fn what_others_are_asked_for_is_what_they_say() {
    let place = Place::new(|_| {});
    place.outside.says("example.com.", RecordType::TXT, &["one", "two"]);
    assert_eq!(place.ask("example.com.", "TXT"), ["example.com. 300 TXT one", "example.com. 300 TXT two"]);
    assert_eq!(place.ask("none.example.com.", "A"), ["Non-Existent Domain"]);
    assert_eq!(place.outside.asked(), ["example.com. TXT", "none.example.com. A"]);
}

#[test]
fn names_with_underscores_and_names_of_one_label_are_names() {
    let place = Place::new(|_| {});
    place.outside.says("_dmarc.example.com.", RecordType::TXT, &["v=DMARC1"]);
    place.outside.says("printer.", RecordType::A, &["192.0.2.1"]);
    assert_eq!(place.ask("_dmarc.example.com.", "TXT"), ["_dmarc.example.com. 300 TXT v=DMARC1"]);
    assert_eq!(place.ask("printer.", "A"), ["printer. 300 A 192.0.2.1"]);
    assert_eq!(place.ask(".", "NS"), ["Non-Existent Domain"]);
    assert_eq!(place.outside.asked().pop().unwrap(), ". NS");
}

#[test]
fn ipv6_clients_are_answered() {
    let place = Place::new(with_web);
    let server = place.another(&["[::1]:0".parse().unwrap()]);
    let client = Client::new("::1", server.addresses()[0]);
    assert_eq!(client.ask(WEB, "A").len(), 1);
    assert_eq!(client.connect().exchange(&question(WEB, "A")).answers.len(), 1);
    assert_eq!(server.stats().requests[0][1][0], 1);
}

#[test]
fn a_and_aaaa_asked_from_one_socket_at_once_both_get_answers() {
    let place = Place::new(with_web);
    for name in [WEB, "slow.example.com."] {
        let client = place.client();
        let asked = [question(name, "A"), question(name, "AAAA")];
        asked.iter().for_each(|one| client.send(&one.to_vec().unwrap()));
        if name != WEB {
            place.outside.release(2);
        }
        let mut answered =
            [client.receive(), client.receive()].map(|one| (one.metadata.id, one.queries[0].query_type()));
        let mut expected = asked.map(|one| (one.metadata.id, one.queries[0].query_type()));
        answered.sort_by_key(|one| one.0);
        expected.sort_by_key(|one| one.0);
        assert_eq!(answered, expected);
    }
}

#[test]
fn many_questions_at_once_from_several_sockets_each_get_their_answer() {
    let place = Place::new(|zone| {
        with_web(zone);
        with_big(zone, 10);
    });
    let clients: Vec<Client> = (0..5).map(|_| place.client()).collect();
    let kinds = [(WEB, "A"), (WEB, "AAAA"), (BIG, "A"), ("none.default.svc.cluster.local.", "A")];
    let mut asked = Vec::new();
    for number in 0..40_u16 {
        for (place, client) in clients.iter().enumerate() {
            let (name, kind) = kinds[usize::from(number) % kinds.len()];
            let mut one = question(name, kind);
            one.metadata.id = number;
            client.send(&one.to_vec().unwrap());
            asked.push((place, number, one.queries[0].clone()));
        }
    }
    let mut answered = Vec::new();
    for (place, client) in clients.iter().enumerate() {
        for _ in 0..40 {
            let answer = client.receive();
            let expected = [1, 0, 10, 0][usize::from(answer.metadata.id) % kinds.len()];
            assert_eq!(answer.answers.len(), expected);
            answered.push((place, answer.metadata.id, answer.queries[0].clone()));
        }
    }
    answered.sort_by_key(|one| (one.1, one.0));
    assert_eq!(answered, asked);
    assert_eq!(place.server().stats().unsent, 0);
}

#[test]
fn a_slow_outside_name_does_not_hold_up_others() {
    let place = Place::new(with_web);
    let (slow, other) = (place.client(), place.client());
    slow.send(&question("slow.example.com.", "A").to_vec().unwrap());
    assert_eq!(other.ask(WEB, "A").len(), 1);
    // Nor those of the same client.
    slow.send(&question(WEB, "A").to_vec().unwrap());
    assert_eq!(slow.receive().queries[0].name().to_string(), WEB);
    place.outside.release(1);
    assert_eq!(slow.receive().queries[0].name().to_string(), "slow.example.com.");
}

#[test]
fn the_clients_buffer_size_is_obeyed() {
    let place = Place::new(|zone| with_big(zone, 500));
    let size = |message: Message| {
        let client = place.client();
        client.send(&message.to_vec().unwrap());
        let octets = client.receive_octets();
        let answer = Message::from_vec(&octets).unwrap();
        assert!(answer.metadata.truncation);
        // As many as fit, for clients that take what there is.
        assert!(!answer.answers.is_empty());
        (octets.len(), answer.edns.is_some())
    };
    let (plain, has_edns) = size(question(BIG, "A"));
    assert!((480..=512).contains(&plain) && !has_edns, "{plain}");
    let (thousand, has_edns) = size(with_edns(question(BIG, "A"), 1000));
    assert!((950..=1000).contains(&thousand) && has_edns, "{thousand}");
    // Larger ones would be fragmented; smaller ones than 512 are not allowed for.
    let (most, _) = size(with_edns(question(BIG, "A"), 65_000));
    assert!((1200..=1232).contains(&most), "{most}");
    let (least, _) = size(with_edns(question(BIG, "A"), 0));
    assert!((480..=512).contains(&least), "{least}");
}

#[test]
fn what_is_too_large_for_udp_comes_over_tcp() {
    let place = Place::new(|zone| with_big(zone, 500));
    let answer = place.client().connect().exchange(&question(BIG, "A"));
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 500);
}

#[test]
fn what_is_too_large_for_tcp_is_as_much_as_there_is_room_for() {
    let place = Place::new(|zone| with_big(zone, 5000));
    let answer = place.client().connect().exchange(&question(BIG, "A"));
    assert!((4000..5000).contains(&answer.answers.len()), "{}", answer.answers.len());
}

#[test]
fn clients_are_given_the_endpoints_in_turn() {
    let place = Place::new(|zone| with_big(zone, 3));
    let client = place.client();
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let answer = client.exchange(&question(BIG, "A"));
        assert_eq!(answer.answers.len(), 3);
        first.insert(answer.answers[0].data.to_string());
    }
    assert_eq!(first.len(), 3);
}

#[test]
fn edns_is_answered_with_edns_and_plain_with_plain() {
    let place = Place::new(with_web);
    assert!(place.client().exchange(&question(WEB, "A")).edns.is_none());
    let mut asked = with_edns(question(WEB, "A"), 4096);
    asked.edns.as_mut().unwrap().set_dnssec_ok(true);
    let edns = place.client().exchange(&asked).edns.unwrap();
    assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, 1232, true));
}

#[test]
fn an_edns_version_that_does_not_exist_is_told_so() {
    let place = Place::new(with_web);
    let mut asked = with_edns(question(WEB, "A"), 4096);
    asked.edns.as_mut().unwrap().set_version(1);
    let answer = place.client().exchange(&asked);
    // BADVERS; BADSIG has the same number.
    assert_eq!(u16::from(answer.metadata.response_code), 16);
    assert_eq!(answer.edns.unwrap().version(), 0);
    assert!(answer.answers.is_empty());
}

#[test]
fn malformed_questions_are_told_so() {
    let place = Place::new(with_web);
    let whole = question(WEB, "A").to_vec().unwrap();
    let mut twice = question(WEB, "A");
    twice.add_query(Query::query(Name::from_ascii(WEB).unwrap(), RecordType::AAAA));
    let none = Message::query();
    let mut compressed = whole.clone();
    compressed[12] = 0xc0;
    let mut long_label = whole.clone();
    long_label[12] = 0x50;
    let mut answers = whole.clone();
    answers[7] = 1;
    let mut two_opts = with_edns(question(WEB, "A"), 1232).to_vec().unwrap();
    two_opts.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    two_opts[11] = 2;
    let mut opt_under_a_name = whole.clone();
    opt_under_a_name.extend_from_slice(&[1, b'a', 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    opt_under_a_name[11] = 1;
    for (what, octets) in [
        ("two questions", twice.to_vec().unwrap()),
        ("no question", none.to_vec().unwrap()),
        ("cut off", whole[..whole.len() - 3].to_vec()),
        ("a header alone", whole[..12].to_vec()),
        ("a compressed name", compressed),
        ("a label too long", long_label),
        ("an answer in a question", answers),
        ("two OPT records", two_opts),
        ("an OPT record that is not the root's", opt_under_a_name),
    ] {
        let client = place.client();
        client.send(&octets);
        let answer = client.receive();
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "{what}");
        assert_eq!(answer.metadata.id, u16::from_be_bytes([octets[0], octets[1]]), "{what}");
    }
}

#[test]
fn operations_other_than_queries_are_not_implemented() {
    let place = Place::new(with_web);
    for operation in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        let mut asked = question(WEB, "A");
        asked.metadata.op_code = operation;
        let answer = place.client().exchange(&asked);
        assert_eq!(
            (answer.metadata.response_code, answer.metadata.op_code),
            (ResponseCode::NotImp, operation)
        );
    }
}

#[test]
fn what_is_no_query_is_not_answered() {
    let place = Place::new(with_web);
    let client = place.client();
    let mut answer = question(WEB, "A").to_vec().unwrap();
    answer[2] |= 0x80;
    for octets in [&answer[..], &answer[..12], b"", b"\0", &[0; 11]] {
        client.send(octets);
    }
    client.hears_nothing_else();
}

#[test]
fn zones_are_not_handed_out() {
    let place = Place::new(with_web);
    for (name, kind) in [("cluster.local.", "AXFR"), ("cluster.local.", "IXFR"), ("example.com.", "AXFR")] {
        assert_eq!(place.ask(name, kind), ["Query Refused"]);
        assert_eq!(records(&place.client().connect().exchange(&question(name, kind))), ["Query Refused"]);
    }
    assert!(place.outside.asked().is_empty());
}

#[test]
fn everything_is_as_little_as_there_can_be() {
    let place = Place::new(|zone| {
        with_web(zone);
        with_big(zone, 500);
    });
    for name in [WEB, BIG] {
        assert_eq!(place.ask(name, "ANY"), [format!("{name} 5 HINFO RFC8482 ")]);
    }
    assert_eq!(place.ask("none.default.svc.cluster.local.", "ANY"), ["Non-Existent Domain"]);
    assert!(place.outside.asked().is_empty());
}

/// C4: the short answer to ANY says that the name exists (RFC 8482 section 4.2), so whoever has the name is asked first.
#[test]
fn any_of_a_name_outside_that_does_not_exist_is_nxdomain() {
    let place = Place::new(with_web);
    assert_eq!(place.ask("none.example.com.", "ANY"), ["Non-Existent Domain"]);
    place.outside.says("example.com.", RecordType::A, &["192.0.2.1"]);
    place.outside.reply("empty.example.com.", RecordType::A, reply(ResponseCode::NoError, Vec::new()));
    for name in ["example.com.", "empty.example.com."] {
        assert_eq!(place.ask(name, "ANY"), [format!("{name} 5 HINFO RFC8482 ")]);
    }
    place.outside.reply("broken.example.com.", RecordType::A, reply(ResponseCode::ServFail, Vec::new()));
    assert_eq!(place.ask("broken.example.com.", "ANY"), ["Server Failure"]);
    // A Pod's first step is not walked: the name itself does not exist.
    let pod = place.pod("127.0.0.2", "default", &[]);
    assert_eq!(pod.ask("example.com.default.svc.cluster.local.", "ANY"), ["Non-Existent Domain"]);
}

/// E10: the cluster's names, and recursion, are for the cluster's own clients.
#[test]
fn strangers_are_refused() {
    let place = Place::new(with_web);
    let stranger = Client::new(STRANGER, place.address);
    for name in [WEB, "example.com.", "1.0.96.10.in-addr.arpa."] {
        assert_eq!(stranger.ask(name, "A"), ["Query Refused"]);
        assert_eq!(records(&stranger.connect().exchange(&question(name, "A"))), ["Query Refused"]);
    }
    assert!(place.outside.asked().is_empty());
}

#[test]
fn other_classes_and_types_that_are_none_are_refused() {
    let place = Place::new(with_web);
    let mut chaos = question("version.bind.", "TXT");
    chaos.queries[0].set_query_class(hickory_proto::rr::DNSClass::CH);
    assert_eq!(records(&place.client().exchange(&chaos)), ["Query Refused"]);
    // MAILB, an obsolete type of questions.
    let mut mail = question(WEB, "A");
    mail.queries[0].set_query_type(RecordType::Unknown(253));
    assert_eq!(records(&place.client().exchange(&mail)), ["Not Implemented"]);
}

#[test]
fn questions_on_one_connection_are_answered_as_soon_as_each_can_be() {
    let place = Place::new(with_web);
    let mut connection = place.client().connect();
    let asked = [question("slow.example.com.", "A"), question(WEB, "A"), question(WEB, "AAAA")];
    asked.iter().for_each(|one| connection.send(one));
    assert_eq!(connection.receive().metadata.id, asked[1].metadata.id);
    assert_eq!(connection.receive().metadata.id, asked[2].metadata.id);
    place.outside.release(1);
    assert_eq!(connection.receive().metadata.id, asked[0].metadata.id);
}

#[test]
fn a_question_may_come_in_pieces_and_several_in_one() {
    let place = Place::new(with_web);
    let mut connection = place.client().connect();
    let (one, two) = (question(WEB, "A"), question(WEB, "AAAA"));
    let both = [framed(&one.to_vec().unwrap()), framed(&two.to_vec().unwrap())].concat();
    for piece in both.chunks(7) {
        connection.0.write_all(piece).unwrap();
    }
    assert_eq!(connection.receive().metadata.id, one.metadata.id);
    assert_eq!(connection.receive().metadata.id, two.metadata.id);
}

#[test]
fn a_connection_on_which_something_else_is_spoken_is_closed() {
    let place = Place::new(with_web);
    let mut connection = place.client().connect();
    connection.0.write_all(&framed(b"no")).unwrap();
    connection.ends();
}

#[test]
fn a_silent_connection_is_closed() {
    let limits = Limits { idle: std::time::Duration::from_millis(50), ..Limits::default() };
    let place = Place::with(Settings { limits, ..Settings::default() }, with_web);
    let mut connection = place.client().connect();
    connection.0.write_all(&[0]).unwrap();
    connection.ends();
}

#[test]
fn one_client_may_not_take_all_connections() {
    let limits = Limits { connections_of_client: 2, ..Limits::default() };
    let place = Place::with(Settings { limits, ..Settings::default() }, with_web);
    let client = place.client();
    let mut kept = [client.connect(), client.connect()];
    assert_eq!(kept.each_mut().map(|one| one.exchange(&question(WEB, "A")).answers.len()), [1, 1]);
    client.connect().ends();
    let [mut left, gone] = kept;
    drop(gone);
    // The place is free again as soon as the server has seen it.
    place.until(|| {
        let mut again = client.connect();
        again.try_exchange(&question(WEB, "A")).is_some()
    });
    assert_eq!(left.exchange(&question(WEB, "A")).answers.len(), 1);
}

#[test]
fn one_client_may_not_have_everybody_wait_for_what_it_asks() {
    let limits = Limits { asked_of_client: 3, asked: 5, ..Limits::default() };
    let place = Place::with(Settings { limits, ..Settings::default() }, with_web);
    let [greedy, other, third] =
        ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(|ip| Client::new(ip, place.address));
    let slow = question("slow.example.com.", "A").to_vec().unwrap();
    (0..3).for_each(|_| greedy.send(&slow));
    place.until(|| place.outside.count() == 3);
    assert_eq!(greedy.ask("example.com.", "A"), ["Server Failure"]);
    // Nobody was asked for that. Its own cluster names, and other clients' outside names, are answered.
    assert_eq!(place.outside.asked().len(), 3);
    assert_eq!(greedy.ask(WEB, "A").len(), 1);
    assert_eq!(other.ask("example.com.", "A"), ["Non-Existent Domain"]);
    (0..2).for_each(|_| other.send(&slow));
    place.until(|| place.outside.count() == 3);
    assert_eq!(third.ask("example.com.", "A"), ["Server Failure"]);
    assert_eq!(place.server().stats().refused, 2);
    place.outside.release(5);
    (0..3).for_each(|_| assert_eq!(greedy.receive().metadata.response_code, ResponseCode::NXDomain));
    place.until(|| greedy.ask("example.com.", "A") == ["Non-Existent Domain"]);
}

#[test]
fn a_client_that_asks_too_often_is_not_answered_and_others_are() {
    let limits = Limits { queries_of_client: 10, ..Limits::default() };
    let place = Place::with(Settings { limits, ..Settings::default() }, with_web);
    let greedy = Client::new("127.0.0.2", place.address);
    let asked = question(WEB, "A").to_vec().unwrap();
    // Sent within two seconds or three, they are more than it may.
    (0..1000).for_each(|_| greedy.send(&asked));
    place.until(|| place.server().stats().shed > 0);
    assert_eq!(Client::new("127.0.0.3", place.address).ask(WEB, "A").len(), 1);
    assert_eq!(greedy.receive().answers.len(), 1);
    // Over TCP nothing is lost, it only waits.
    let mut connection = greedy.connect();
    (0..20).for_each(|_| assert_eq!(connection.exchange(&question(WEB, "A")).answers.len(), 1));
}

#[test]
fn a_server_that_ends_leaves_its_address_to_the_next() {
    let mut place = Place::new(with_web);
    let address = place.address;
    assert_eq!(place.ask(WEB, "A").len(), 1);
    // The next one may begin before: an upgrade leaves no gap.
    let next = place.another(&[address]);
    place.server.take();
    assert_eq!(place.ask(WEB, "A").len(), 1);
    // A connection may be made just as the old listener closes, and is made again then.
    place.until(|| {
        let answer = place.client().connect().try_exchange(&question(WEB, "A"));
        answer.is_some_and(|answer| answer.answers.len() == 1)
    });
    drop(next);
}

#[test]
fn who_asked_before_the_server_ended_is_answered() {
    let mut place = Place::new(with_web);
    let (client, mut connection) = (place.client(), place.client().connect());
    client.send(&question("slow.example.com.", "A").to_vec().unwrap());
    connection.send(&question("slow.example.com.", "A"));
    place.until(|| place.outside.count() == 2);
    place.server.take();
    place.outside.release(2);
    assert_eq!(client.receive().metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(connection.receive().metadata.response_code, ResponseCode::NXDomain);
    connection.ends();
}

#[test]
fn an_address_that_the_machine_does_not_have_yet_can_be_listened_on() {
    let place = Place::new(with_web);
    let taken = "192.0.2.53:0".parse().unwrap();
    assert_eq!(place.another(&[taken]).addresses()[0].ip(), crate::support::ip("192.0.2.53"));
}

#[test]
fn noise_is_survived() {
    let place = Place::new(with_web);
    let client = place.client();
    let whole = with_edns(question(WEB, "A"), 1232).to_vec().unwrap();
    for place in 0..whole.len() {
        for bit in 0..8 {
            let mut noisy = whole.clone();
            noisy[place] ^= 1 << bit;
            client.send(&noisy);
        }
    }
    assert_eq!(place.ask(WEB, "A").len(), 1);
}

#[test]
fn who_wants_signatures_of_others_is_asked_for_with_them() {
    let place = Place::new(|_| {});
    place.outside.says("example.com.", RecordType::A, &["192.0.2.1"]);
    let mut message = with_edns(question("example.com.", "A"), 1232);
    place.client().exchange(&message);
    message.edns.as_mut().unwrap().set_dnssec_ok(true);
    let answer = place.client().exchange(&message);
    assert!(answer.edns.unwrap().flags().dnssec_ok && !answer.metadata.authentic_data);
    assert_eq!(place.outside.asked(), ["example.com. A", "example.com. A signed"]);
}
