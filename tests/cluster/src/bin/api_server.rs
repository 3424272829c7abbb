//! The API server of the tests, by itself: to be looked at with `kubectl`, or to
//! run an agent against.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use cluster_fixtures::{
    admission::{Admission, Chain},
    longhorn::{Manager, Policies, Webhook, manager},
    server::{Options, Server, longhorn_node_crd, longhorn_replica_crd},
};
use serde_json::Value;

/// A Kubernetes API server for tests. It keeps objects in memory, runs nothing,
/// and forgets everything when it is interrupted.
///
/// `CustomResourceDefinitions` of Longhorn's Node and Replica are there from the
/// beginning. Speak to it with `kubectl --kubeconfig OUT`.
#[derive(Debug, Parser)]
#[command(name = "api-server")]
struct Arguments {
    /// Address and port; port 0 takes any
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// HTTPS, with a certificate authority made for this run
    #[arg(long)]
    tls: bool,
    /// Further name or address for the certificate
    #[arg(long, value_name = "NAME")]
    tls_name: Vec<String>,
    /// Let roles and bindings decide who may do what; without, every token may do all
    #[arg(long)]
    rbac: bool,
    /// File with CustomResourceDefinitions to create
    #[arg(long, value_name = "FILE")]
    crd: Vec<PathBuf>,
    /// File with objects to create, after all definitions
    #[arg(long, value_name = "FILE")]
    apply: Vec<PathBuf>,
    /// Where to write a kubeconfig for the administrator; implies --tls, since
    /// `kubectl` sends no token over plain HTTP
    #[arg(long, value_name = "OUT")]
    kubeconfig: Option<PathBuf>,
    /// Be Longhorn on a node whose / is this directory: its webhook, and its
    /// manager, which writes longhorn-disk.cfg there; may be repeated
    #[arg(long, value_name = "NODE=DIR")]
    longhorn: Vec<String>,
    /// Print a token of this ServiceAccount, bound to a pod on this node where one is named
    #[arg(long, value_name = "NAMESPACE/NAME[@NODE]")]
    token: Vec<String>,
}

/// How long a token lives that was asked for on the command line.
const TOKEN_LIVES: Duration = Duration::from_hours(24 * 365);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut nodes = manager::Options::default();
    nodes.defaults.labelled_only = true;
    for node in &arguments.longhorn {
        let (name, root) = node
            .split_once('=')
            .with_context(|| format!("{node:?} is no NODE=DIR"))?;
        nodes = nodes.node(name, root);
    }
    let server = Server::start(Options {
        listen: arguments.listen,
        tls: arguments.tls || arguments.kubeconfig.is_some(),
        tls_names: arguments.tls_name,
        rbac: arguments.rbac,
        ..Options::default()
    });
    // Policies that are applied take effect; Longhorn's webhook is asked last.
    let mut asked: Vec<Arc<dyn Admission>> = vec![Arc::new(Policies::default())];
    if !arguments.longhorn.is_empty() {
        asked.push(Arc::new(Webhook::default()));
    }
    server.set_admission(Arc::new(Chain(asked)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let endpoint = server.endpoint(&server.admin_token());
        let mut objects = vec![longhorn_node_crd(), longhorn_replica_crd()];
        for file in arguments.crd.iter().chain(&arguments.apply) {
            objects.extend(read(file)?);
        }
        for object in &objects {
            endpoint.apply(object).await?;
        }
        if let Some(out) = &arguments.kubeconfig {
            let text = server.kubeconfig(&server.admin_token()).to_string();
            fs::write(out, text).with_context(|| format!("cannot write {}", out.display()))?;
        }
        for account in &arguments.token {
            println!("{}", token(&server, account)?);
        }
        let _manager = (!arguments.longhorn.is_empty())
            .then(|| Manager::start(server.config(&server.admin_token()), nodes));
        println!("{}", server.url());
        tokio::signal::ctrl_c().await?;
        Ok(())
    })
}

/// All documents of a file of YAML or JSON.
fn read(file: &Path) -> Result<Vec<Value>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
        .with_context(|| format!("cannot parse {}", file.display()))?;
    Ok(documents.into_iter().filter(|one| !one.is_null()).collect())
}

fn token(server: &Server, account: &str) -> Result<String> {
    let (account, node) = match account.split_once('@') {
        Some((account, node)) => (account, Some(node)),
        None => (account, None),
    };
    let Some((namespace, name)) = account.split_once('/') else {
        bail!("{account:?} is no NAMESPACE/NAME");
    };
    Ok(server.service_account_token(namespace, name, node, TOKEN_LIVES))
}
