//! Every parameter that is refused, by its name.

use super::*;

#[tokio::test]
async fn what_is_wrong_is_refused_by_its_name() {
    let server = Server::start().await;
    let url = "https://example.com/2.png";
    let cases = [
        (json!({"prompt": ""}), "prompt", "invalid_value"),
        (json!({"prompt": " \n"}), "prompt", "invalid_value"),
        (json!({"prompt": 7}), "prompt", "invalid_value"),
        (
            json!({"prompt": null}),
            "prompt",
            "missing_required_parameter",
        ),
        (
            json!({"image_url": null}),
            "image_url",
            "missing_required_parameter",
        ),
        (
            json!({"image_url": "ftp://e.com/1.png"}),
            "image_url",
            "invalid_value",
        ),
        (
            json!({"image_url": "data:image/png;base64,AA=="}),
            "image_url",
            "invalid_value",
        ),
        (
            json!({"image_url": {"image_url": url}}),
            "image_url",
            "invalid_value",
        ),
        (json!({"image": url}), "image_url", "invalid_value"),
        (
            json!({"input_reference": {"image_url": url}}),
            "input_reference.image_url",
            "invalid_value",
        ),
        (
            json!({"image_url": null, "input_reference": {}}),
            "input_reference",
            "invalid_value",
        ),
        (
            json!({"image_url": null, "input_reference": {"file_id": "file_1"}}),
            "input_reference.file_id",
            "unknown_parameter",
        ),
        (json!({"duration": 0}), "duration", "invalid_value"),
        (json!({"duration": 16}), "duration", "invalid_value"),
        (json!({"duration": 2.5}), "duration", "invalid_value"),
        (json!({"seconds": "06"}), "seconds", "invalid_value"),
        (json!({"seconds": true}), "seconds", "invalid_value"),
        (
            json!({"seconds": 4, "duration": 5}),
            "seconds",
            "invalid_value",
        ),
        (json!({"size": "4k"}), "size", "invalid_value"),
        (json!({"size": "1024x1792"}), "size", "invalid_value"),
        (json!({"size": 720}), "size", "invalid_value"),
        (
            json!({"size": "720p", "resolution": "480p"}),
            "size",
            "invalid_value",
        ),
        (json!({"model": "grok-imagine"}), "model", "invalid_value"),
        (json!({"key": ""}), "key", "invalid_value"),
        (json!({"batch": "x".repeat(201)}), "batch", "invalid_value"),
        (json!({"priority": 1.5}), "priority", "invalid_value"),
        (
            json!({"not_before": "2026-01-01T00:00:00"}),
            "not_before",
            "invalid_value",
        ),
        (
            json!({"not_before": 1_760_000_000}),
            "not_before",
            "invalid_value",
        ),
        (json!({"metadata": [1]}), "metadata", "invalid_value"),
        (
            json!({"metadata": {"a": "x".repeat(70_000)}}),
            "metadata",
            "invalid_value",
        ),
        (json!({"images": [url]}), "images", "unsupported_parameter"),
        (
            json!({"image_urls": [url]}),
            "image_urls",
            "unsupported_parameter",
        ),
        (
            json!({"reference_image_urls": null}),
            "reference_image_urls",
            "unsupported_parameter",
        ),
        (json!({"video": url}), "video", "unsupported_parameter"),
        (
            json!({"video_url": url}),
            "video_url",
            "unsupported_parameter",
        ),
        (json!({"videos": []}), "videos", "unsupported_parameter"),
        (
            json!({"video_urls": [url]}),
            "video_urls",
            "unsupported_parameter",
        ),
        (
            json!({"aspect_ratio": "16:9"}),
            "aspect_ratio",
            "unsupported_parameter",
        ),
        (
            json!({"extra_body": {"operation": "video_extend"}}),
            "extra_body.operation",
            "unsupported_parameter",
        ),
        (
            json!({"extra_body": {}}),
            "extra_body",
            "unsupported_parameter",
        ),
        (json!({"n": 2}), "n", "unsupported_parameter"),
        (json!({"promt": "p"}), "promt", "unknown_parameter"),
        (json!({"state": "done"}), "state", "unknown_parameter"),
    ];
    for (more, param, code) in cases {
        let refused = server.create(more.clone()).await;
        check_error(&refused, 400, code);
        assert_eq!(refused.error("param"), param, "{more}: {refused:?}");
        assert_eq!(refused.error("type"), "invalid_request_error");
    }
    // OpenAI's own sizes that the provider has not.
    let refused = server.create(json!({"size": "1792x1024"})).await;
    assert!(refused.error("message").ends_with(
        "a shorter side of 480, 720 or 1080, found \"1792x1024\": the provider makes no video of 1024 lines"
    ));
    // All faults are told at once, and a name that was meant is guessed.
    let refused = server
        .create(json!({"promt": "x", "seconds": 99, "images": [1]}))
        .await;
    for told in ["did you mean prompt?", "seconds must be", "images:"] {
        assert!(refused.error("message").contains(told), "{refused:?}");
    }
    for (text, code) in [
        ("", "invalid_json"),
        ("[]", "invalid_json"),
        ("{\"prompt\":", "invalid_json"),
        ("nonsense", "invalid_json"),
        ("{\"prompt\":\"a\",\"prompt\":\"b\"}", "invalid_value"),
        (
            "{\"prompt\":\"\\ud800\",\"image_url\":\"https://e.com/1\"}",
            "invalid_value",
        ),
        (
            "{\"prompt\":\"a\\u0000\",\"image_url\":\"https://e.com/1\"}",
            "invalid_value",
        ),
    ] {
        let request = server.request(Method::POST, "/v1/videos");
        let request = request.header("content-type", "application/json");
        check_error(&answer(request.body(text)).await, 400, code);
    }
    for path in ["edits", "extensions", "characters", "video_1/remix"] {
        let refused = server.post(&format!("/v1/videos/{path}"), &json!({})).await;
        check_error(&refused, 400, "unsupported_operation");
    }
    assert_eq!(server.store.counts(None).await.unwrap().total(), 0);
}
