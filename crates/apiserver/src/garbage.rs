//! Objects of every type with nonsense in them: whatever a client sends, nothing on its way panics.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::allocate::Services;
use crate::convert;
use crate::defaults;
use crate::fields::{self, Manager};
use crate::resources::{Registry, ResourceType, crd};
use crate::schema::{self, Shape, Type};
use crate::store::Object;
use crate::validation::{self, custom};
use crate::view::{Form, View};

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0_i64), Just(-1), Just(i64::MAX), 0..100_000_i64].prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "(|a|10.0.0.1|::1|10.96.0.0/12|None|TCP|Local|LoadBalancer|NodePort|ExternalName|RollingUpdate|\
          2020-01-01T00:00:00Z|IPv6|[a-z./ü]{0,8})"
            .prop_map(Value::from),
    ]
}

/// Values that follow a message's shape most of the way, and leave it at random places.
fn message(name: &'static str, depth: u32) -> BoxedStrategy<Value> {
    let known: Vec<_> = schema::message(name).into_iter().flat_map(schema::Message::json_fields).collect();
    if depth == 0 || known.is_empty() {
        return scalar().boxed();
    }
    let count = known.len();
    let fields = prop::collection::vec((0..count, any::<prop::sample::Index>()), 0..8);
    fields
        .prop_flat_map(move |picks| {
            let fields: Vec<BoxedStrategy<(String, Value)>> = picks
                .into_iter()
                .filter_map(|(at, _)| known.get(at).copied())
                .map(|field| {
                    let one = match field.kind {
                        Type::Message(inner) => message(inner, depth - 1),
                        _ => scalar().boxed(),
                    };
                    let shaped = match field.shape {
                        Shape::List => prop::collection::vec(one, 0..3).prop_map(Value::from).boxed(),
                        Shape::Map => prop::collection::vec(("[a-z]{1,3}", one), 0..3)
                            .prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
                            .boxed(),
                        Shape::One | Shape::Inline => one,
                    };
                    let value = prop_oneof![9 => shaped, 1 => scalar()];
                    (Just(field.name.to_owned()), value).boxed()
                })
                .collect();
            fields.prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>()))
        })
        .boxed()
}

/// A type and an object of it; of custom types, with a definition that is nonsense as well.
fn objects() -> impl Strategy<Value = (ResourceType, Value)> {
    let types = Registry::new().types();
    let known: Vec<_> = types.all().filter(|resource| schema::name_of(resource).is_some()).cloned().collect();
    let built_in = prop::sample::select(known).prop_flat_map(|resource| {
        let name = schema::name_of(&resource).unwrap_or_default();
        (Just((*resource).clone()), message(name, 6))
    });
    let schema = message("core/v1.PodSpec", 4).prop_map(|noise| {
        json!({"type": "object", "properties": {"spec": noise, "a": {"type": "object", "properties": noise}}, "required": noise})
    });
    let custom = (schema, message("core/v1.Pod", 4)).prop_map(|(schema, object)| {
        let definition = json!({"metadata": {"name": "as.b"}, "spec": {
            "group": "b", "names": {"kind": "A", "plural": "as"}, "scope": "Namespaced",
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        }});
        (crd::types(&definition).remove(0), object)
    });
    prop_oneof![4 => built_in, 1 => custom]
}

/// As `incoming` leaves a body: what it refuses does not come further.
fn incoming(resource: &ResourceType, mut object: Value) -> Option<Value> {
    if let Some(name) = schema::name_of(resource)
        && !schema::check(name, &object).wrong.is_empty()
    {
        return None;
    }
    if !object.get("metadata").is_some_and(Value::is_object) {
        object.as_object_mut()?.insert("metadata".to_owned(), json!({"name": "a"}));
    }
    convert::to_stored(resource, &mut object);
    Some(object)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_on_the_way_of_an_object_panics((resource, sent) in objects(), (_, other) in objects()) {
        let types = Registry::new().types();
        if let Some(custom) = &resource.custom {
            custom::unknown(&custom.schema, &sent);
        }
        let Some(mut object) = incoming(&resource, sent) else { return Ok(()) };
        let ranges = vec!["10.96.0.0/16".parse().unwrap(), "fd00::/112".parse().unwrap()];
        let services = Services::new(ranges, 30000..=30010);
        let before = object.clone();
        defaults::initial_status(&resource, &mut object);
        defaults::apply(&resource, &mut object, None);
        let _ = validation::create(&resource, &types, &object);
        let _ = validation::update(&resource, &types, "", &before, &object);
        let _ = validation::update(&resource, &types, "", &other, &object);
        if resource.plural == "services" {
            let reserved = services.reserve(&mut object, Some(&other));
            if let Ok(reserved) = reserved {
                reserved.keep();
            }
            services.free_dropped(&object, &other);
        }
        let manager = Manager::update("m".to_owned(), &resource, "");
        fields::updated(&manager, &resource, Some(&before), &mut object);
        let stored = Object::unstored(object);
        for form in [Form::Whole, Form::Table, Form::Metadata] {
            let view = View::new(resource.clone().into(), form, "Object").unwrap();
            let list = view.list(&[stored.clone(), Object::unstored(other.clone())], json!({}));
            prop_assert!(serde_json::from_slice::<Value>(&list).is_ok());
        }
    }
}
