//! A real kube-apiserver with its etcd, on loopback, from the directory that
//! `KUBEBUILDER_ASSETS` names (the convention of envtest).
//!
//! Nothing else of a cluster runs: no controller, no scheduler, no kubelet.
//! Requests are authorized by RBAC. There is one administrator with a token;
//! tokens of ServiceAccounts are asked for as anywhere (`TokenRequest`).

mod audit;
mod keys;
mod process;

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use uuid::Uuid;

use self::{audit::Audit, process::Process};
use crate::{endpoint::Endpoint, server::Seen, wait::block_on};

/// Names the directory with `kube-apiserver` and `etcd`.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// Of the API server's first answer on a slow machine.
const PATIENCE: Duration = Duration::from_mins(3);
/// How often it is asked meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// Another program may take a port between its choice and its use.
const ATTEMPTS: usize = 3;

/// A kube-apiserver and its etcd; both end when this is dropped.
#[derive(Debug)]
pub struct RealServer {
    address: SocketAddr,
    ca_pem: String,
    admin_token: String,
    version: Version,
    // In this order: the API server goes before what it stores in, and the
    // files go last.
    apiserver: Process,
    etcd: Process,
    directory: TempDir,
    audit: Audit,
}

/// Of a kube-apiserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1, so far.
    pub major: u32,
    /// Of `v1.32.4`, 32.
    pub minor: u32,
}

/// The directory that `KUBEBUILDER_ASSETS` names; none where it is not set.
#[must_use]
pub fn assets() -> Option<PathBuf> {
    env::var_os(ASSETS)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

impl RealServer {
    /// Starts both programs and waits until the API server says that it is
    /// ready.
    ///
    /// # Errors
    ///
    /// When a program is missing, ends at once or does not become ready; the
    /// end of its output is in the error.
    pub fn start(assets: &Path) -> Result<Self> {
        let assets = fs::canonicalize(assets)
            .with_context(|| format!("{ASSETS} names {}", assets.display()))?;
        let version = version(&assets.join("kube-apiserver"))?;
        let mut attempt = 1;
        loop {
            match Self::attempt(&assets, version) {
                Err(error)
                    if attempt < ATTEMPTS
                        && format!("{error:#}").contains("address already in use") =>
                {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn attempt(assets: &Path, version: Version) -> Result<Self> {
        let directory = TempDir::with_prefix("cluster-").context("a temporary directory")?;
        let files = directory.path();
        let ca_pem = keys::write(files)?;
        audit::write_policy(files)?;
        let admin_token = Uuid::new_v4().to_string();
        let tokens = files.join("tokens.csv");
        fs::write(
            &tokens,
            format!("{admin_token},system:admin,admin,\"system:masters\"\n"),
        )
        .with_context(|| format!("write {}", tokens.display()))?;

        let [client, peer, secure] = free_ports()?;
        let mut etcd = Process::start(&assets.join("etcd"), files, &etcd_arguments(client, peer))?;
        let mut apiserver = Process::start(
            &assets.join("kube-apiserver"),
            files,
            &apiserver_arguments(secure, client, version),
        )?;
        wait(secure, &ca_pem, &admin_token, &mut apiserver, &mut etcd)?;
        Ok(Self {
            address: secure,
            ca_pem,
            admin_token,
            version,
            apiserver,
            etcd,
            directory,
            audit: Audit::default(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://127.0.0.1:<port>`
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Of the authority that signed its certificate.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Of `system:admin`, who may do everything.
    #[must_use]
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// Requests since they were last forgotten, in the order in which they were
    /// answered.
    ///
    /// # Errors
    ///
    /// When the audit log cannot be read.
    pub fn requests(&self) -> Result<Vec<Seen>> {
        self.audit.requests(self.directory.path())
    }

    /// The log of requests begins anew.
    ///
    /// # Errors
    ///
    /// When the audit log cannot be read.
    pub fn forget_requests(&self) -> Result<()> {
        self.audit.forget(self.directory.path())
    }

    /// Process ids of the API server and of etcd.
    #[must_use]
    pub fn pids(&self) -> [u32; 2] {
        [self.apiserver.pid(), self.etcd.pid()]
    }

    /// What it calls itself.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }
}

/// Asks the program; `Kubernetes v1.32.4` or with more behind it.
fn version(apiserver: &Path) -> Result<Version> {
    let output = Command::new(apiserver)
        .arg("--version")
        .output()
        .with_context(|| format!("run {} --version", apiserver.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
    let mut parts = text
        .trim()
        .strip_prefix("Kubernetes v")
        .unwrap_or_default()
        .split('.');
    match (number(parts.next()), number(parts.next())) {
        (Some(major), Some(minor)) => Ok(Version { major, minor }),
        _ => bail!("{} calls itself {text:?}", apiserver.display()),
    }
}

/// Ports that nobody listens on. All are held until the last is chosen, so that
/// they differ.
fn free_ports<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for port in &mut ports {
        let listener = TcpListener::bind(*port).context("a port on loopback")?;
        *port = listener.local_addr().context("its number")?;
        held.push(listener);
    }
    Ok(ports)
}

fn etcd_arguments(client: SocketAddr, peer: SocketAddr) -> Vec<String> {
    vec![
        "--data-dir=etcd".into(),
        format!("--listen-client-urls=http://{client}"),
        format!("--advertise-client-urls=http://{client}"),
        format!("--listen-peer-urls=http://{peer}"),
        format!("--initial-advertise-peer-urls=http://{peer}"),
        format!("--initial-cluster=default=http://{peer}"),
    ]
}

fn apiserver_arguments(secure: SocketAddr, etcd: SocketAddr, version: Version) -> Vec<String> {
    let mut arguments = vec![
        format!("--etcd-servers=http://{etcd}"),
        format!("--bind-address={}", secure.ip()),
        format!("--secure-port={}", secure.port()),
        format!("--advertise-address={}", secure.ip()),
        // An address on loopback may not be published as an endpoint.
        "--endpoint-reconciler-type=none".into(),
        "--cert-dir=.".into(),
        format!("--tls-cert-file={}", keys::CERTIFICATE),
        format!("--tls-private-key-file={}", keys::KEY),
        "--token-auth-file=tokens.csv".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-signing-key-file={}", keys::ACCOUNTS_KEY),
        format!("--service-account-key-file={}", keys::ACCOUNTS_PUBLIC_KEY),
        "--service-cluster-ip-range=10.0.0.0/24".into(),
        "--authorization-mode=RBAC".into(),
        "--allow-privileged=true".into(),
        // Without a controller no namespace has a default ServiceAccount, and
        // no Pod could be created.
        "--disable-admission-plugins=ServiceAccount".into(),
        "--profiling=false".into(),
        format!("--audit-policy-file={}", audit::POLICY),
        format!("--audit-log-path={}", audit::LOG),
        // A request is in the log before its answer is complete.
        "--audit-log-mode=blocking".into(),
    ];
    if version
        < (Version {
            major: 1,
            minor: 24,
        })
    {
        // Open to every process of the machine, without any authentication.
        arguments.push("--insecure-port=0".into());
    }
    arguments
}

/// Until `/readyz` says so.
fn wait(
    address: SocketAddr,
    ca_pem: &str,
    token: &str,
    apiserver: &mut Process,
    etcd: &mut Process,
) -> Result<()> {
    let endpoint = Endpoint {
        url: format!("https://{address}"),
        ca_pem: Some(ca_pem.to_owned()),
        token: token.to_owned(),
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        for process in [&mut *apiserver, &mut *etcd] {
            if let Some(death) = process.death()? {
                bail!("{death}");
            }
        }
        match block_on(|| ready(&endpoint))? {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => bail!(
                "the API server did not become ready: {error:#}\n{}",
                apiserver.tail()
            ),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

async fn ready(endpoint: &Endpoint) -> Result<()> {
    let request = hyper::Request::get("/readyz").body(Vec::new())?;
    let answer = endpoint.client().request_text(request).await?;
    if answer == "ok" {
        Ok(())
    } else {
        bail!("/readyz answers {answer:?}")
    }
}
