//! Where an API server is, and who is asking: all that a client needs.

use anyhow::{Context, Result};
use kube::{Client, Config, config::AuthInfo};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;

/// An API server as one user sees it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http(s)://127.0.0.1:<port>`
    pub url: String,
    /// Of the authority that signed its certificate; none over plain HTTP.
    pub ca_pem: Option<String>,
    /// Of the user.
    pub token: String,
}

impl Endpoint {
    /// For the library's client.
    ///
    /// # Errors
    ///
    /// When the URL or the certificate is not one.
    pub fn config(&self) -> Result<Config> {
        let mut config = Config::new(self.url.parse().context("the URL of the API server")?);
        if let Some(pem) = &self.ca_pem {
            let authorities: Result<Vec<_>, _> =
                CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            config.root_cert = Some(
                authorities
                    .context("the certificate of the authority")?
                    .iter()
                    .map(|certificate| certificate.to_vec())
                    .collect(),
            );
        }
        let token = json!({ "token": self.token });
        config.auth_info = serde_json::from_value::<AuthInfo>(token).context("the token")?;
        Ok(config)
    }

    /// Needs a runtime around it.
    ///
    /// # Errors
    ///
    /// As [`Self::config`], and when there can be no client with it.
    pub fn client(&self) -> Result<Client> {
        Client::try_from(self.config()?).context("a client")
    }

    /// The same server for somebody else.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }
}
