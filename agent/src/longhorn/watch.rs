//! The task that keeps a [`View`] up to date.
//!
//! It works in sessions. A session builds a client, lists the one object, then
//! watches it until something fails. Every session begins with a list, and
//! between sessions there is always a pause that grows: a watch that was only
//! resumed would say nothing as long as the object does not change, so that a
//! failure would stay in view after it has gone.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use kube::{
    Api, Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, KubeconfigError},
    runtime::watcher::{self, watch_object},
};
use tokio::sync::watch;
use tower::limit::RateLimitLayer;

use super::{LonghornSettings, View, node::Node};
use crate::{backoff::Backoff, text::chain};

/// A connection on which nothing comes for so long is given up. The API server
/// sends a bookmark about once a minute on a watch where nothing happens.
const SILENCE: Duration = Duration::from_secs(100);
/// A session that lasted this long was a good one: the next pause is short.
const STEADY: Duration = Duration::from_mins(1);
/// Requests of one session in [`REQUESTS_PER`]. It needs two, and one every
/// five minutes after that; but kube resumes a watch that was closed without an
/// error at once and as often as that happens, and tells nobody.
const REQUESTS: u64 = 3;
const REQUESTS_PER: Duration = Duration::from_mins(1);
/// Longest text of a failure, in characters: proxies answer with whole pages.
const WORDS: usize = 300;
/// What the pauses are counted for.
const API: &str = "longhorn";

/// Why a session ended.
#[derive(Debug)]
struct Interrupted {
    /// When the API first answered in this session.
    answered: Option<Instant>,
    /// What there is to see if it did not.
    view: View,
}

/// Follows this node's Longhorn Node with the service account of the pod or,
/// outside of a pod, with the kubeconfig of the user.
///
/// Returns at once. The task goes on through every failure, and ends when
/// nobody holds a receiver any more. Must be called inside a tokio runtime.
pub fn spawn(settings: LonghornSettings) -> watch::Receiver<View> {
    spawn_with(settings, configured)
}

/// As [`spawn`], with the way to the API server from elsewhere. `config` is
/// asked before each session; its error is shown to people.
pub fn spawn_with<F, C>(settings: LonghornSettings, config: F) -> watch::Receiver<View>
where
    F: FnMut() -> C + Send + 'static,
    C: Future<Output = Result<Config, String>> + Send,
{
    let (sender, view) = watch::channel(View::Connecting);
    drop(tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            never = follow(&settings, config, &sender) => never,
        }
    }));
    view
}

/// A view that stays [`View::Off`].
pub fn off() -> watch::Receiver<View> {
    watch::channel(View::Off).1
}

async fn follow<F, C>(settings: &LonghornSettings, mut config: F, sender: &watch::Sender<View>) -> !
where
    F: FnMut() -> C,
    C: Future<Output = Result<Config, String>>,
{
    let mut backoff = Backoff::default();
    loop {
        let interrupted = session(settings, config().await, sender).await;
        match interrupted.answered {
            // The next list tells what has become of it.
            Some(since) => {
                tracing::debug!(why = %interrupted.view, "the watch of the Longhorn node ended");
                if since.elapsed() >= STEADY {
                    backoff.forget(API);
                }
            }
            None => show(sender, interrupted.view),
        }
        let now = Instant::now();
        backoff.failed(API, String::new(), now);
        let pause = backoff
            .next(now)
            .map_or(STEADY, |again| again.duration_since(now));
        tokio::time::sleep(pause).await;
    }
}

/// One list and one watch, until something fails.
async fn session(
    settings: &LonghornSettings,
    config: Result<Config, String>,
    sender: &watch::Sender<View>,
) -> Interrupted {
    let mut answered = None;
    let client = config.and_then(|config| client(config).map_err(|error| words(&error)));
    let view = match client {
        Err(why) => unreachable(&why),
        Ok(client) => {
            let api = Api::<Node>::namespaced(client, &settings.namespace);
            let mut nodes = pin!(watch_object(api, &settings.node_name));
            loop {
                match nodes.next().await {
                    Some(Ok(node)) => {
                        answered.get_or_insert_with(Instant::now);
                        show(sender, View::of(node));
                    }
                    Some(Err(error)) => break failure(error),
                    None => break unreachable("the watch ended"),
                }
            }
        }
    };
    Interrupted { answered, view }
}

async fn configured() -> Result<Config, String> {
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

fn client(mut config: Config) -> kube::Result<Client> {
    // The pauses between sessions are ours; retries within would multiply them.
    config.default_retry = false;
    config.read_timeout.get_or_insert(SILENCE);
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&RateLimitLayer::new(REQUESTS, REQUESTS_PER))
        .build())
}

fn failure(error: watcher::Error) -> View {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404 => {
            View::NotInstalled
        }
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => unreachable(&words(&error)),
        watcher::Error::WatchError(status) => unreachable(&words(&kube::Error::Api(status))),
        watcher::Error::NoResourceVersion => {
            unreachable("the answer of the API server has no resourceVersion")
        }
    }
}

fn unreachable(why: &str) -> View {
    let line = why.split_whitespace().collect::<Vec<_>>().join(" ");
    View::Unreachable {
        why: line.chars().take(WORDS).collect(),
    }
}

/// kube's own texts repeat their causes and print whole structures.
fn words(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        format!(
            "the API server answered {}: {}",
            status.code, status.message
        )
    } else if let kube::Error::Service(error) = error {
        format!("the API server cannot be reached: {}", chain(&**error))
    } else if let kube::Error::SerdeError(error) = error {
        format!("the answer of the API server is not understood: {error}")
    } else {
        error.to_string()
    }
}

/// Tells of changes only: Longhorn writes to the object all the time.
fn show(sender: &watch::Sender<View>, view: View) {
    sender.send_if_modified(|shown| {
        let changed = *shown != view;
        if changed {
            tracing::info!(%view, "Longhorn node");
            *shown = view;
        }
        changed
    });
}
