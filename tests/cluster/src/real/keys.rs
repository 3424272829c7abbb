//! The certificates and keys of one API server, in files as it wants them.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Names of the files.
pub(super) const CERTIFICATE: &str = "server.crt";
pub(super) const KEY: &str = "server.key";
pub(super) const ACCOUNTS_KEY: &str = "accounts.key";
pub(super) const ACCOUNTS_PUBLIC_KEY: &str = "accounts.pub";

/// Writes the files; the answer is the certificate of the authority that
/// signed the server's.
pub(super) fn write(directory: &Path) -> Result<String> {
    let authority_key = KeyPair::generate().context("a key")?;
    let mut authority = CertificateParams::new(Vec::new()).context("an authority")?;
    // With one name for both, OpenSSL takes the server's for self-signed.
    authority
        .distinguished_name
        .push(DnType::CommonName, "authority of a cluster for tests");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = authority
        .self_signed(&authority_key)
        .context("sign the authority's certificate")?;

    let key = KeyPair::generate().context("a key")?;
    let mut server =
        CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).context("a server")?;
    server
        .distinguished_name
        .push(DnType::CommonName, "kube-apiserver");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let signed = server
        .signed_by(&key, &Issuer::from_params(&authority, authority_key))
        .context("sign the server's certificate")?;

    let accounts = KeyPair::generate().context("a key")?;
    for (name, text) in [
        (CERTIFICATE, signed.pem()),
        (KEY, key.serialize_pem()),
        (ACCOUNTS_KEY, accounts.serialize_pem()),
        (ACCOUNTS_PUBLIC_KEY, accounts.public_key_pem()),
    ] {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(certificate.pem())
}
