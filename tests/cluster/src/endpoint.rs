//! An API server as a client needs to know it, whichever it is.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a fixture that cannot go on should say so and stop"
)]

use k8s_openapi::ByteString;
use kube::{Client, Config};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};

/// Where an API server is, and as whom to speak to it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `https://127.0.0.1:6443`.
    pub url: String,
    /// Certificates that the server's is signed by; none for plain HTTP.
    pub ca_pem: Option<String>,
    /// Bearer token.
    pub token: String,
}

impl Endpoint {
    /// The same server for somebody else.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// For `kube`.
    ///
    /// # Panics
    ///
    /// When the URL or the certificates are none.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = Config::new(self.url.parse().expect("a URL"));
        config.root_cert = self.ca_pem.as_ref().map(|pem| {
            CertificateDer::pem_slice_iter(pem.as_bytes())
                .map(|one| one.expect("a certificate").to_vec())
                .collect()
        });
        config.auth_info.token = Some(self.token.clone().into());
        config
    }

    /// Speaks to the server. It connects when it is used first.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).expect("a client")
    }

    /// The text of a kubeconfig, as JSON, which is YAML as well.
    #[must_use]
    pub fn kubeconfig(&self) -> Value {
        let mut cluster = json!({"server": self.url});
        if let Some(pem) = &self.ca_pem {
            cluster["certificate-authority-data"] = json!(ByteString(pem.clone().into_bytes()));
        }
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
    }
}
