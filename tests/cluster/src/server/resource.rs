//! What kinds of objects there are: a table of those built in, and what
//! CustomResourceDefinitions add to it.

use serde_json::{Value, json};

use super::object::text;

/// A kind of objects at one version, under its plural name.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Empty for the core.
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub short_names: Vec<String>,
    pub namespaced: bool,
    /// Whether `status` is written by its own endpoint only.
    pub status: bool,
    /// Whether `metadata.generation` is counted.
    pub generation: bool,
    /// A PUT without `metadata.resourceVersion` is accepted.
    pub blind_update: bool,
    /// For what a CustomResourceDefinition defines.
    pub custom: Option<Custom>,
}

/// What only custom resources have.
#[derive(Debug, Clone)]
pub struct Custom {
    /// `openAPIV3Schema`.
    pub schema: Value,
    /// `additionalPrinterColumns`.
    pub columns: Vec<Value>,
}

/// Where objects of a kind are kept, whatever version they are read by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub group: String,
    pub plural: String,
}

impl Place {
    pub fn new(group: &str, plural: &str) -> Self {
        Self {
            group: group.to_owned(),
            plural: plural.to_owned(),
        }
    }
}

impl Resource {
    /// `nodes.longhorn.io`, `pods`.
    pub fn full_name(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `longhorn.io/v1beta2`, `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Events are the same objects in both of their groups.
    pub fn place(&self) -> Place {
        if self.is_event() {
            return Place::new("", "events");
        }
        Place::new(&self.group, &self.plural)
    }

    pub fn is_event(&self) -> bool {
        self.plural == "events" && matches!(self.group.as_str(), "" | "events.k8s.io")
    }

    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// Those that a CustomResourceDefinition serves.
    pub fn defined_by(definition: &Value) -> Vec<Self> {
        let spec = &definition["spec"];
        let names = &spec["names"];
        let kind = text(names, "/kind");
        let or = |pointer: &str, otherwise: String| match text(names, pointer) {
            "" => otherwise,
            given => given.to_owned(),
        };
        let versions = spec["versions"].as_array().into_iter().flatten();
        versions
            .filter(|version| version["served"] == json!(true))
            .map(|version| Self {
                group: text(spec, "/group").to_owned(),
                version: text(version, "/name").to_owned(),
                plural: text(names, "/plural").to_owned(),
                singular: or("/singular", kind.to_lowercase()),
                kind: kind.to_owned(),
                list_kind: or("/listKind", format!("{kind}List")),
                short_names: texts(&names["shortNames"]),
                namespaced: spec["scope"] == json!("Namespaced"),
                status: version.pointer("/subresources/status").is_some(),
                generation: true,
                blind_update: false,
                custom: Some(Custom {
                    schema: version
                        .pointer("/schema/openAPIV3Schema")
                        .cloned()
                        .unwrap_or_default(),
                    columns: version["additionalPrinterColumns"]
                        .as_array()
                        .cloned()
                        .unwrap_or_default(),
                }),
            })
            .collect()
    }
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Kind, plural, short name, and letters: `n`amespaced, with a `s`tatus, with a
/// `g`eneration, `r`esourceVersion needed for a PUT.
type Row = (&'static str, &'static str, &'static str, &'static str);

const CORE: &[Row] = &[
    ("Namespace", "namespaces", "ns", "s"),
    ("Node", "nodes", "no", "s"),
    ("ServiceAccount", "serviceaccounts", "sa", "n"),
    ("Secret", "secrets", "", "n"),
    ("ConfigMap", "configmaps", "cm", "n"),
    ("Pod", "pods", "po", "ns"),
    ("Service", "services", "svc", "ns"),
    ("Event", "events", "ev", "n"),
];
const EVENTS: &[Row] = &[("Event", "events", "ev", "n")];
const RBAC: &[Row] = &[
    ("Role", "roles", "", "n"),
    ("RoleBinding", "rolebindings", "", "n"),
    ("ClusterRole", "clusterroles", "", ""),
    ("ClusterRoleBinding", "clusterrolebindings", "", ""),
];
const ADMISSION: &[Row] = &[
    (
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        "",
        "sgr",
    ),
    (
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        "",
        "gr",
    ),
    (
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "",
        "g",
    ),
    (
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        "",
        "g",
    ),
];
const APPS: &[Row] = &[
    ("DaemonSet", "daemonsets", "ds", "nsg"),
    ("Deployment", "deployments", "deploy", "nsg"),
];
const EXTENSIONS: &[Row] = &[(
    "CustomResourceDefinition",
    "customresourcedefinitions",
    "crd",
    "sgr",
)];

/// Those that are there before anybody defines any.
pub fn built_in() -> Vec<Resource> {
    let groups = [
        ("", CORE),
        ("events.k8s.io", EVENTS),
        ("rbac.authorization.k8s.io", RBAC),
        ("admissionregistration.k8s.io", ADMISSION),
        ("apps", APPS),
        ("apiextensions.k8s.io", EXTENSIONS),
    ];
    let rows = groups
        .into_iter()
        .flat_map(|(group, rows)| rows.iter().map(move |row| (group, row)));
    rows.map(|(group, (kind, plural, short, letters))| Resource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        plural: (*plural).to_owned(),
        singular: kind.to_lowercase(),
        kind: (*kind).to_owned(),
        list_kind: format!("{kind}List"),
        short_names: [*short]
            .into_iter()
            .filter(|short| !short.is_empty())
            .map(str::to_owned)
            .collect(),
        namespaced: letters.contains('n'),
        status: letters.contains('s'),
        generation: letters.contains('g'),
        blind_update: !letters.contains('r'),
        custom: None,
    })
    .collect()
}
