//! The plugin's scanner and frames against a full parser and against noise.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::Cursor;

use proptest::prelude::*;
use serde_json::Value;
use weft_cni::{
    Call, Verb,
    plugin::{
        call::quote,
        frame,
        scan::{self, top_level},
    },
};

#[test]
fn the_last_of_two_counts_and_nested_ones_do_not() {
    let json = r#" {"a":{"socket":"no","x":[1,{"socket":[]}]},"socket":"first" , "socket":"\u0073\ud83d\ude00/\n" } "#;
    assert_eq!(top_level(json, &["socket"]).unwrap(), [Some(scan::Value::Text("s😀/\n".into()))]);
}

#[test]
fn null_is_absent() {
    assert_eq!(top_level(r#"{"a":null,"b":[null]}"#, &["a", "b"]).unwrap(), [None, Some(scan::Value::Other)]);
}

#[test]
fn an_error_says_where() {
    let error = top_level(r#"{"a":1,"b" 2}"#, &[]).unwrap_err().to_string();
    assert_eq!(error, "expected ':' after a key at byte 11");
}

#[test]
fn deep_nesting_is_refused() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    assert!(top_level(&deep, &["a"]).is_err());
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map("[a-c\"\\\\ä]{0,3}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn agrees_with_a_full_parser(value in json(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        match (&value, top_level(&text, &["a", "b", "ä"])) {
            (Value::Object(object), Ok(found)) => for (key, found) in ["a", "b", "ä"].iter().zip(found) {
                match object.get(*key) {
                    None | Some(Value::Null) => prop_assert_eq!(found, None),
                    Some(Value::String(text)) => prop_assert_eq!(found, Some(scan::Value::Text(text.clone()))),
                    Some(_) => prop_assert_eq!(found, Some(scan::Value::Other)),
                }
            },
            (Value::Object(_), Err(error)) => prop_assert!(false, "{} in {}", error, text),
            (_, found) => prop_assert!(found.is_err()),
        }
    }

    #[test]
    fn what_a_full_parser_takes_the_scanner_takes(
        text in "\\{(\"[ab\\\\u0]{0,3}\"|:|,|[0-9]|\\[|\\]|\\{|\\}| |null|true|-|e){0,12}\\}"
    ) {
        if serde_json::from_str::<Value>(&text).is_ok() {
            prop_assert!(top_level(&text, &["a"]).is_ok(), "{}", text);
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = top_level(&text, &["a"]);
    }

    #[test]
    fn no_cut_panics(value in json(), at in any::<prop::sample::Index>()) {
        let text = serde_json::to_string(&value).unwrap();
        let cut: String = text.chars().take(at.index(text.len() + 1)).collect();
        let _ = top_level(&cut, &["a"]);
    }

    #[test]
    fn quoted_text_is_read_back(text in any::<String>()) {
        prop_assert_eq!(serde_json::from_str::<String>(&quote(&text)).unwrap(), text);
    }

    #[test]
    fn a_call_survives_the_socket(texts in proptest::array::uniform5(any::<String>())) {
        let [container_id, netns, ifname, args, config] = texts;
        let call = Call { verb: Verb::Check, container_id, netns, ifname, args, config };
        let mut stream = Vec::new();
        frame::write(&mut stream, call.to_json().as_bytes()).unwrap();
        let body = frame::read(&mut Cursor::new(stream)).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Call>(&body).unwrap(), call);
    }

    #[test]
    fn no_frame_panics_or_takes_memory_that_did_not_arrive(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        match frame::read(&mut Cursor::new(&bytes)) {
            Ok(body) => prop_assert!(body.len() + 4 <= bytes.len() && body.capacity() <= 4096),
            Err(error) => prop_assert!(matches!(
                error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData
            )),
        }
    }
}
