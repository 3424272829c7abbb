//! The requests that are made to the API server, each a method, and what their
//! failures mean. Nothing else in this program writes to the API.

use std::time::Duration;

use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview, core::v1::Node as KubernetesNode, events::v1::Event,
};
use kube::{
    Api, Config,
    api::{ListParams, Patch, PatchParams, PostParams},
    client::ClientBuilder,
    config::{KubeConfigOptions, KubeconfigError},
    core::PartialObjectMeta,
};
use serde_json::Value;

use super::{
    LonghornSettings,
    elsewhere::Neighbour,
    node::{Node, Replica},
};
use crate::text::{chain, in_a_line};

/// By what name the API server knows who wrote a field.
const MANAGER: &str = "disk-discovery";
/// An answer that takes longer is given up. Longhorn's webhook has 10 s of its
/// own, and a loaded API server is slow.
const ANSWER: Duration = Duration::from_mins(1);
/// Longest text of a failure, in characters: proxies answer with whole pages.
const WORDS: usize = 300;
/// Extra of the user that a token bound to a pod stands for (Kubernetes 1.30
/// and later).
const NODE_CLAIM: &str = "authentication.kubernetes.io/node-name";
/// Begins what Longhorn's webhook refuses while it has not taken notice of the
/// last change of disks. A missing right is a 403 too.
const SYNCING: &str =
    "admission webhook \"validator.longhorn.io\" denied the request: spec and status of disks";
/// Label of a replica: the disk that it is on.
const DISK_LABEL: &str = "longhorndiskuuid";

/// Why a request failed, by what is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The object has changed since it was read: read it again.
    Conflict,
    /// Longhorn has not taken notice of the last change of disks: wait.
    Syncing,
    /// The object or its kind is not there: wait until Longhorn makes it.
    Absent,
    /// What was asked for is wrong and stays so: tell a person.
    Rejected(String),
    /// The agent has no right to it: tell a person, and try again some time.
    Forbidden(String),
    /// The token is not, or no longer, good: read it again.
    Unauthorized(String),
    /// No answer, or none that can be used: try again later.
    Unreachable(String),
}

impl Failure {
    /// The API server has said that it changed nothing. Of some answers that
    /// count as none, as 429, that is not known here.
    pub fn is_an_answer(&self) -> bool {
        match self {
            Self::Conflict
            | Self::Syncing
            | Self::Absent
            | Self::Rejected(_)
            | Self::Forbidden(_)
            | Self::Unauthorized(_) => true,
            Self::Unreachable(_) => false,
        }
    }
}

/// A connection to the API server, for what concerns one node.
#[derive(Debug, Clone)]
pub struct Requests {
    nodes: Api<Node>,
    neighbours: Api<Neighbour>,
    replicas: Api<Replica>,
    events: Api<Event>,
    reviews: Api<SelfSubjectReview>,
    kubernetes_nodes: Api<KubernetesNode>,
    name: String,
}

/// What the API server takes the agent for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the user or service account.
    pub user: String,
    /// Node that the token is bound to, where it is.
    pub node: Option<String>,
}

impl Requests {
    /// By a configuration that was just read: tokens are replaced all the time.
    ///
    /// # Errors
    /// In words, when it cannot be used.
    pub fn new(mut config: Config, settings: &LonghornSettings) -> Result<Self, String> {
        // The pauses are ours; retries within would multiply them.
        config.default_retry = false;
        config.read_timeout.get_or_insert(ANSWER);
        config.write_timeout.get_or_insert(ANSWER);
        let client = ClientBuilder::try_from(config)
            .map_err(|error| words(&error))?
            .build();
        let namespace = &settings.namespace;
        Ok(Self {
            nodes: Api::namespaced(client.clone(), namespace),
            neighbours: Api::namespaced(client.clone(), namespace),
            replicas: Api::namespaced(client.clone(), namespace),
            events: Api::namespaced(client.clone(), namespace),
            reviews: Api::all(client.clone()),
            kubernetes_nodes: Api::all(client),
            name: settings.node_name.clone(),
        })
    }

    /// This node's Longhorn Node, as it is now.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn node(&self) -> Result<Node, Failure> {
        self.nodes.get(&self.name).await.map_err(failure)
    }

    /// All Longhorn Nodes, as they are now.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn nodes(&self) -> Result<Vec<Neighbour>, Failure> {
        let listed = self.neighbours.list(&ListParams::default()).await;
        let listed = listed.map_err(failure)?;
        let rest = listed.metadata.continue_.unwrap_or_default();
        if !rest.is_empty() {
            // Nobody has asked for a part of it.
            let why = "the API server lists a part of Longhorn's Nodes only";
            return Err(Failure::Unreachable(why.to_owned()));
        }
        Ok(listed.items)
    }

    /// Applies a JSON merge patch to it. With `dry_run` nothing is kept.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn patch_node(&self, patch: &Value, dry_run: bool) -> Result<Node, Failure> {
        let parameters = PatchParams {
            dry_run,
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.nodes
            .patch(&self.name, &parameters, &Patch::Merge(patch))
            .await
            .map_err(failure)
    }

    /// Tells an Event. One of the same name was told before, which will do.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn tell(&self, event: &Event) -> Result<(), Failure> {
        match self.events.create(&PostParams::default(), event).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(failure(error)),
        }
    }

    /// Whom the API server takes this agent for.
    ///
    /// # Errors
    /// See [`Failure`]; [`Failure::Absent`] where it is too old to say.
    pub async fn identity(&self) -> Result<Identity, Failure> {
        let asked = SelfSubjectReview::default();
        let answer = self.reviews.create(&PostParams::default(), &asked).await;
        let user = answer
            .map_err(failure)?
            .status
            .and_then(|status| status.user_info);
        let user = user.unwrap_or_default();
        let node = user.extra.unwrap_or_default().remove(NODE_CLAIM);
        Ok(Identity {
            user: user.username.unwrap_or_default(),
            node: node.and_then(|nodes| nodes.into_iter().next()),
        })
    }

    /// How many replicas Longhorn has on a disk, whatever its status says.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn replicas_on(&self, disk_uuid: &str) -> Result<usize, Failure> {
        let asked = ListParams::default().labels(&format!("{DISK_LABEL}={disk_uuid}"));
        let found = self.replicas.list_metadata(&asked).await.map_err(failure)?;
        Ok(found.items.len())
    }

    /// Metadata of this node's Kubernetes Node.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn kubernetes_node(&self) -> Result<PartialObjectMeta<KubernetesNode>, Failure> {
        let node = self.kubernetes_nodes.get_metadata(&self.name).await;
        node.map_err(failure)
    }

    /// Applies a JSON merge patch to it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn patch_kubernetes_node(&self, patch: &Value) -> Result<(), Failure> {
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.kubernetes_nodes
            .patch_metadata(&self.name, &parameters, &Patch::Merge(patch))
            .await
            .map(drop)
            .map_err(failure)
    }
}

/// With the service account of the pod or, outside of a pod, with the
/// kubeconfig of the user.
///
/// # Errors
/// In words, when there is neither.
pub async fn configured() -> Result<Config, String> {
    let no_pod = match Config::incluster() {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    Config::from_kubeconfig(&KubeConfigOptions::default())
        .await
        .map_err(|error| {
            // A parse error quotes the file, which holds credentials.
            let no_file = if matches!(error, KubeconfigError::Parse(_)) {
                "the kubeconfig cannot be parsed".to_owned()
            } else {
                error.to_string()
            };
            format!("no way to the Kubernetes API: {no_file}; not in a pod: {no_pod}")
        })
}

fn failure(error: kube::Error) -> Failure {
    let kube::Error::Api(status) = &error else {
        return Failure::Unreachable(words(&error));
    };
    let text = || short(&status.message);
    match status.code {
        // By a policy with the reason Invalid, which is what it is without one.
        403 | 422 if status.message.contains("ValidatingAdmissionPolicy") => {
            Failure::Forbidden(text())
        }
        401 => Failure::Unauthorized(text()),
        403 if status.message.contains(SYNCING) => Failure::Syncing,
        403 => Failure::Forbidden(text()),
        404 => Failure::Absent,
        409 => Failure::Conflict,
        400 | 413 | 415 | 422 => Failure::Rejected(text()),
        _ => Failure::Unreachable(words(&error)),
    }
}

/// kube's own texts repeat their causes and print whole structures.
pub(super) fn words(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        format!(
            "the API server answered {}: {}",
            status.code,
            short(&status.message)
        )
    } else if let kube::Error::Service(error) = error {
        format!("the API server cannot be reached: {}", chain(&**error))
    } else if let kube::Error::SerdeError(error) = error {
        format!("the answer of the API server is not understood: {error}")
    } else {
        error.to_string()
    }
}

/// Somebody else's text as a part of a line.
pub(super) fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    in_a_line(&line.chars().take(WORDS).collect::<String>())
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answer(code: u16, message: &str) -> Failure {
        let status = Status::failure(message, "").with_code(code).boxed();
        failure(kube::Error::Api(status))
    }

    #[test]
    fn a_403_of_longhorns_webhook_passes_and_one_of_missing_rights_does_not() {
        let syncing = "admission webhook \"validator.longhorn.io\" denied the request: spec and status of disks on node k3s2 are being syncing and please retry later.";
        assert_eq!(answer(403, syncing), Failure::Syncing);
        let rights = "nodes.longhorn.io \"k3s2\" is forbidden: User \"system:serviceaccount:longhorn-system:disk-discovery\" cannot patch resource \"nodes\"";
        assert!(matches!(answer(403, rights), Failure::Forbidden(_)));
    }

    #[test]
    fn what_a_policy_denies_is_forbidden_and_what_the_webhook_denies_is_wrong() {
        let policy = "nodes.longhorn.io \"k3s2\" is forbidden: ValidatingAdmissionPolicy 'disk-discovery' with binding 'disk-discovery' denied request: not its own node";
        for code in [403, 422] {
            assert!(matches!(answer(code, policy), Failure::Forbidden(_)));
        }
        let webhook = "admission webhook \"validator.longhorn.io\" denied the request: duplicate disk paths on node";
        assert!(matches!(answer(422, webhook), Failure::Rejected(_)));
        let down = "Internal error occurred: failed calling webhook \"validator.longhorn.io\"";
        assert!(matches!(answer(500, down), Failure::Unreachable(_)));
    }

    #[test]
    fn the_text_of_a_failure_stays_a_line() {
        let page = format!("<html>\n\u{1b}[2J{}", "x".repeat(10_000));
        let Failure::Rejected(text) = answer(422, &page) else {
            panic!("another failure");
        };
        assert!(!text.contains(char::is_control));
        assert!(text.len() < 400, "{}", text.len());
    }
}
