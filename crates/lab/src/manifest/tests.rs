//! Manifests as people write them.

use super::*;

fn error(text: &str) -> String {
    match parse("app.yaml", text) {
        Err(error) => error.to_string(),
        Ok(loaded) => panic!("read: {:?}", loaded.manifests),
    }
}

#[test]
fn documents_keep_their_lines() {
    let text = "# an application\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n---\n\n# web\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, namespace: shop}\ndata:\n  script: |\n    ---\n    echo hello\n---\n";
    let Loaded { manifests, .. } = parse("app.yaml", text).unwrap();
    let seen: Vec<_> = manifests.iter().map(|m| (m.place.line, m.kind(), m.name(), m.namespace())).collect();
    assert_eq!(seen, [(3, "Namespace", "shop", None), (10, "ConfigMap", "web", Some("shop"))]);
    assert_eq!(manifests[1].object["data"]["script"], "---\necho hello\n");
}

#[test]
fn broken_yaml_names_file_and_line() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: b\n   labels: {}\n";
    let error = error(text);
    assert!(error.starts_with("app.yaml:10: ") || error.starts_with("app.yaml:9: "), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn a_wrong_type_names_the_line_of_the_field() {
    let text = "\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: three\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: web, image: nginx}]}\n";
    let error = error(text);
    assert!(error.starts_with("app.yaml:8: Deployment web: "), "{error}");
}

#[test]
fn a_number_where_a_string_belongs_is_refused() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n    image: nginx\n    env:\n    - name: PORT\n      value: 8080\n";
    let error = error(text);
    assert!(error.starts_with("app.yaml:10: Pod a: "), "{error}");
}

#[test]
fn quantities_ports_and_modes_may_be_numbers() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n    image: nginx\n    resources: {limits: {cpu: 1, memory: 0.5}}\n    livenessProbe: {httpGet: {port: 80}}\n  volumes:\n  - name: c\n    configMap: {name: c, defaultMode: 0755}\n";
    let Loaded { manifests, .. } = parse("app.yaml", text).unwrap();
    assert_eq!(manifests[0].object.pointer("/spec/volumes/0/configMap/defaultMode").unwrap(), 0o755);
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(error("kind: Pod\nmetadata: {name: a}\n"), "app.yaml:1: Pod has no apiVersion");
    assert!(error("# x\napiVersion: v1\nkind: Pod\n").contains("app.yaml:2: Pod has no metadata.name"));
    assert!(error("- a\n- b\n").starts_with("app.yaml:1: not a Kubernetes object"));
}

#[test]
fn a_name_of_a_wrong_type_hides_nothing() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: 5\nspec:\n  type: Nothing\n  ports: [{port: 80}]\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n---\napiVersion: 1\nkind: Pod\nmetadata: {name: b}\n---\napiVersion: example.com/v1\nkind: Robot\nmetadata: {name: [c]}\n";
    let error = error(text);
    let told: Vec<&str> = error.lines().map(str::trim).collect();
    let [_, name, kind, containers, version, robot] = told.as_slice() else { panic!("{error}") };
    assert_eq!(*name, "app.yaml:4: Service 5: metadata.name must be a string, not 5");
    assert!(kind.starts_with("app.yaml:6: Service 5: spec.type: "), "{kind}");
    assert!(containers.starts_with("app.yaml:12: Pod a: "), "{containers}");
    assert_eq!(*version, "app.yaml:14: Pod b: apiVersion must be a string, not 1");
    assert_eq!(*robot, "app.yaml:20: Robot [\"c\"]: metadata.name must be a string, not [\"c\"]");
}

#[test]
fn an_object_without_a_name_tells_what_else_is_wrong() {
    let error = error("apiVersion: v1\nkind: Pod\nspec: {containers: []}\n");
    assert!(
        error.contains("app.yaml:1: Pod has no metadata.name\n") && error.contains("app.yaml:3: Pod: "),
        "{error}"
    );
}

#[test]
fn unknown_kinds_are_kept_and_lists_are_opened() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: a}}\n- {apiVersion: example.com/v1, kind: Robot, metadata: {name: r}, spec: {arms: 2}}\n";
    let Loaded { manifests, .. } = parse("list.yaml", text).unwrap();
    assert_eq!(manifests.len(), 2);
    assert_eq!(manifests[1].object["spec"]["arms"], 2);
}

#[test]
fn json_is_read_too() {
    let text =
        "{\n \"apiVersion\": \"v1\",\n \"kind\": \"Namespace\",\n \"metadata\": {\"name\": \"a\"}\n}\n";
    assert_eq!(parse("ns.json", text).unwrap().manifests[0].kind(), "Namespace");
}

fn pod(spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  containers: [{{name: a, image: b}}]\n{spec}"
    )
}

/// E15: a path that leaves its volume is refused, with its line.
#[test]
fn paths_that_leave_their_volume_are_refused() {
    let text = pod(
        "  volumes:\n  - name: v\n    configMap:\n      name: m\n      items:\n      - {key: k, path: ../../x}\n",
    );
    let error = error(&text);
    assert!(error.starts_with("app.yaml:11: Pod a: ") && error.contains("must not contain '..'"), "{error}");
}

/// D3: every kind of list is opened, and says what its items are.
#[test]
fn lists_of_a_kind_are_opened() {
    let text = "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBindingList\nitems:\n- metadata: {name: a}\n  roleRef: {kind: Role, name: r}\n- apiVersion: v1\n  kind: List\n  items:\n  - {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n";
    let manifests = parse("l.yaml", text).unwrap().manifests;
    let seen: Vec<_> = manifests.iter().map(|m| (m.place.line, m.kind(), m.name())).collect();
    assert_eq!(seen, [(4, "RoleBinding", "a"), (9, "ConfigMap", "b")]);
}

/// D11: what kubectl takes.
#[test]
fn what_kubectl_takes_is_taken() {
    for text in [
        pod("  restartPolicy: \"\"\n"),
        pod("  nodeSelector:\n"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: , l: null}\n".into(),
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: \"\", ports: [{port: 80.0, protocol: \"\"}]}\n".into(),
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{name: x, port: 8e1}, {name: y1, port: 08}]}\n".into(),
        pod("  hostNetwork: yes\n  enableServiceLinks: off\n"),
    ] {
        assert_eq!(parse("app.yaml", &text).unwrap().manifests.len(), 1, "{text}");
    }
    let object = "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"a\"}}";
    let other = |name: &str| object.replace("\"a\"", &format!("\"{name}\""));
    let several = parse("a.json", &format!("{object}\n{}\n\n{}", other("b"), other("c"))).unwrap().manifests;
    assert_eq!(several.iter().map(|m| m.place.line).collect::<Vec<_>>(), [1, 2, 4]);
    let mut wide = vec![0xff, 0xfe];
    wide.extend(object.encode_utf16().flat_map(u16::to_le_bytes));
    let mut loaded = Loaded::default();
    loaded.read("wide.json", &wide);
    assert_eq!(loaded.manifests[0].name(), "a");
}

/// D11: what kubectl or the API server refuses.
#[test]
fn what_kubectl_refuses_is_refused() {
    let cases = [
        ("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  annotations:\n    a: yes\n", 6),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  namespace: y\n", 5),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 80\n    name: y\n",
            7,
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  selctor: {a: b}\n  ports: [{port: 80}]\n",
            5,
        ),
    ];
    for (text, line) in cases {
        let error = error(text);
        assert!(error.starts_with(&format!("app.yaml:{line}: ")), "{error}");
    }
    let folder = weft_scratch::folder();
    let file = folder.path().join("empty.yaml");
    fs::write(&file, "# nothing\n---\n").unwrap();
    let none = load(&[file]).unwrap_err();
    assert!(matches!(none, ManifestError::NoObjects(_)), "{none}");
}

/// D11: keys that kubectl turns into other text, and what it loses.
#[test]
fn keys_are_what_kubectl_makes_of_them() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  y: a\n  1.10: b\n  0644: c\n  k: d\n  k: e\n";
    let loaded = parse("app.yaml", text).unwrap();
    let data = loaded.manifests[0].object["data"].as_object().unwrap();
    let keys: Vec<&str> = data.keys().map(String::as_str).collect();
    assert_eq!(keys, ["1.1", "420", "k", "true"]);
    assert_eq!(loaded.warnings.len(), 1);
    assert_eq!(loaded.warnings[0].place.line, 9);
}

/// A4: everything that is wrong is told, by file and line.
#[test]
fn all_that_is_wrong_is_told() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replcas: 3\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - name: web\n        imagee: nginx\n        prots: []\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 0}]}\n";
    let folder = weft_scratch::folder();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("b.yaml", &format!("{deployment}---\n{service}---\nkind: [\n"));
    write("a.yaml", "kind: Pod\nmetadata: {name: a}\n");
    let error = load(&[folder.path().to_owned()]).unwrap_err();
    let ManifestError::Refused(faults) = &error else { panic!("{error}") };
    let name = |fault: &Fault| fault.place.file.rsplit('/').next().unwrap().to_owned();
    let places: Vec<_> = faults.iter().map(|fault| (name(fault), fault.place.line)).collect();
    let lines = |file: &str| -> Vec<u64> {
        places.iter().filter(|place| place.0 == file).map(|place| place.1).collect()
    };
    assert_eq!(lines("a.yaml"), [1], "{error}");
    // That the container has no image is but what follows from its name being written wrong.
    let (broken, values) = lines("b.yaml").split_last().map(|(last, rest)| (*last, rest.to_vec())).unwrap();
    assert_eq!(values, [5, 12, 13, 18, 18], "{error}");
    assert!(broken >= 20, "{error}");
    assert!(error.to_string().starts_with("7 faults:\n  "), "{error}");
}

#[test]
fn urls_are_not_read() {
    let error = load(&[PathBuf::from("https://example.com/app.yaml")]).unwrap_err();
    assert!(error.to_string().starts_with("https://example.com/app.yaml: URLs are not read"), "{error}");
}

#[test]
fn a_kustomization_beside_manifests_is_told() {
    let folder = weft_scratch::folder();
    fs::write(folder.path().join("kustomization.yaml"), "resources: [a.yaml]\n").unwrap();
    fs::write(folder.path().join("a.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n")
        .unwrap();
    let loaded = load(&[folder.path().to_owned()]).unwrap();
    assert_eq!(loaded.manifests.len(), 1);
    let [warning] = loaded.warnings.as_slice() else { panic!("{:?}", loaded.warnings) };
    assert!(warning.place.file.ends_with("/kustomization.yaml"), "{warning:?}");
    assert!(warning.what.starts_with("kustomizations are not read"), "{warning:?}");
}
