//! Signatures by the Standard Webhooks specification.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use super::WebhookError;

/// Signs messages by the Standard Webhooks specification.
pub struct Signer(Zeroizing<Vec<u8>>);

impl Signer {
    /// Reads a secret: `whsec_` and base64 of 24 to 64 bytes.
    ///
    /// # Errors
    /// [`WebhookError::Secret`], without a word of the secret.
    pub fn new(secret: &SecretString) -> Result<Signer, WebhookError> {
        let text = secret.expose_secret();
        let text = text.strip_prefix("whsec_").ok_or(WebhookError::Secret)?;
        let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| WebhookError::Secret)?);
        if !(24..=64).contains(&bytes.len()) {
            return Err(WebhookError::Secret);
        }
        Ok(Signer(bytes))
    }

    /// The `webhook-signature` of a message: `v1,` and base64 of the HMAC-SHA256
    /// over its id, its time in seconds and its payload.
    pub fn sign(&self, id: &str, seconds: i64, payload: &str) -> String {
        // A key of any length is fine for HMAC.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return String::new();
        };
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(payload.as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of the specification's own libraries.
    #[test]
    fn a_message_is_signed_as_the_specification_says() {
        let secret = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signer = Signer::new(&secret).unwrap();
        assert_eq!(
            signer.sign(
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#
            ),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn a_bad_secret_is_refused_and_not_shown() {
        for bad in [
            "",
            "whsec_",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_!!!!",
            "whsec_c2hvcnQ=",
        ] {
            let error = Signer::new(&SecretString::from(bad))
                .map(|_| ())
                .unwrap_err();
            assert!(!error.to_string().contains("c2hvcnQ"), "{error}");
        }
    }
}
