"""The unchanged `openai` package against a running reelq.

    python openai_sdk.py http://127.0.0.1:8787 [TOKEN]

The daemon must make videos (`reelq sandbox` is enough). Ends with status 0 if
everything an SDK program relies on holds, else with an assertion.
"""

import asyncio
import json
import os
import sys
import tempfile
import urllib.request
import uuid
import warnings

import openai

# OpenAI ends its own video models; the API lives on in others.
warnings.simplefilter("ignore", DeprecationWarning)

IMAGE = "https://images.example.com/harbour.png"
RUN = uuid.uuid4().hex[:12]


def expect(error, call, **facts):
    """The call fails with this class and these attributes."""
    try:
        answer = call()
    except error as raised:
        assert type(raised) is error, f"{type(raised).__name__} instead of {error.__name__}"
        for name, wanted in facts.items():
            found = getattr(raised, name)
            assert found == wanted, f"{name}: {found!r} instead of {wanted!r} in {raised}"
        assert raised.body["message"], raised
        return raised
    raise AssertionError(f"{error.__name__} expected, got {answer!r}")


def main(base, token):
    client = openai.OpenAI(base_url=f"{base}/v1", api_key=token or "any")
    image = {"image_url": IMAGE, "batch": RUN}

    def job(video):
        request = urllib.request.Request(f"{base}/api/jobs/{video.id}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    # A program written for another model works by its base URL and an image.
    video = client.videos.create_and_poll(
        model="sora-2",
        prompt="A harbour at dawn, slow push-in",
        seconds="4",
        size="1280x720",
        extra_body={**image, "metadata": {"film": "harbour", "scene": {"number": 7}}},
        poll_interval_ms=200,
    )
    assert (video.object, video.status, video.progress) == ("video", "completed", 100), video
    assert (video.seconds, video.size, video.error) == ("4", "720p", None), video
    assert video.completed_at >= video.created_at > 1_600_000_000, video
    assert video.reelq["metadata"] == {"film": "harbour", "scene": {"number": "7"}}, video
    assert client.videos.retrieve(video.id).id == video.id
    assert client.videos.retrieve(str(video.reelq["id"])).id == video.id

    # The video: whole, to a file, and in part.
    content = client.videos.download_content(video.id)
    whole = content.read()
    assert len(whole) == video.reelq["bytes"] and whole[4:8] == b"ftyp", whole[:16]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "video.mp4")
        client.videos.download_content(video.id, variant="video").write_to_file(path)
        with open(path, "rb") as file:
            assert file.read() == whole
    part = client.videos.download_content(video.id, extra_headers={"Range": "bytes=4-11"})
    assert part.response.status_code == 206 and part.read() == whole[4:12]
    expect(
        openai.BadRequestError,
        lambda: client.videos.download_content(video.id, variant="thumbnail"),
        param="variant",
    )

    # One key is one job and one payment, however often it is sent.
    key = {"Idempotency-Key": f"{RUN}-key"}
    create = lambda prompt: client.videos.create(prompt=prompt, extra_body=image, extra_headers=key)
    first, second = create("once"), create("once")
    assert first.id == second.id
    expect(openai.ConflictError, lambda: create("twice"), code="idempotency_key_reused", param="key")
    first = client.videos.poll(first.id, poll_interval_ms=200)
    assert first.status == "completed", first
    assert [line["outcome"] for line in job(first)["submissions"]] == ["accepted"]
    assert client.videos.retrieve(f"key:{RUN}-key").id == first.id

    # The SDK's own repeat of a request whose answer was lost carries no key.
    again = client.videos.create(
        prompt="A lost answer", extra_body=image, extra_headers={"x-stainless-retry-count": "0"}
    )
    repeat = client.videos.create(
        prompt="A lost answer", extra_body=image, extra_headers={"x-stainless-retry-count": "1"}
    )
    assert again.id == repeat.id

    # The image in OpenAI's own parameter, which this SDK only sends as extra.
    reference = client.videos.create(
        prompt="p", extra_body={"input_reference": {"image_url": IMAGE}, "batch": RUN}
    )
    assert reference.reelq["image_url"] == IMAGE

    # Refusals name the parameter, and are not tried again.
    uploaded = expect(
        openai.BadRequestError,
        lambda: client.videos.create(prompt="p", input_reference=("a.png", b"\x89PNG", "image/png")),
        param="input_reference",
    )
    assert "URL" in uploaded.message and "upload" in uploaded.message, uploaded
    for name, more in {
        "image_url": {},
        "images": {"images": [IMAGE, IMAGE]},
        "video_url": {"video_url": IMAGE},
        "aspect_ratio": {"aspect_ratio": "16:9"},
        "extra_body.operation": {"extra_body": {"operation": "edit_video"}},
        "surprise": {"surprise": 1},
    }.items():
        body = {**more} if name == "image_url" else {**image, **more}
        expect(
            openai.BadRequestError,
            lambda body=body: client.videos.create(prompt="p", extra_body=body),
            param=name,
            type="invalid_request_error",
        )
    for name, wrong in {"seconds": "99", "size": "1024x1792", "model": "gpt-4o"}.items():
        expect(
            openai.BadRequestError,
            lambda name=name, wrong=wrong: client.videos.create(prompt="p", extra_body=image, **{name: wrong}),
            param=name,
        )
    expect(openai.NotFoundError, lambda: client.videos.retrieve("video_999999999"), param="video_id")
    expect(openai.NotFoundError, lambda: client.videos.delete("video_999999999"))
    expect(openai.BadRequestError, lambda: client.videos.remix(video.id, prompt="p"))
    if token:
        stranger = openai.OpenAI(base_url=f"{base}/v1", api_key="wrong")
        expect(openai.AuthenticationError, lambda: stranger.videos.list(), code="invalid_api_key")

    # Paging: every video once, in both orders.
    newest = [each.id for each in client.videos.list(limit=2)]
    oldest = [each.id for each in client.videos.list(limit=3, order="asc")]
    assert newest == oldest[::-1] and len(set(newest)) == len(newest) >= 4, (newest, oldest)
    page = client.videos.list(limit=1, after=newest[0])
    assert [each.id for each in page.data] == newest[1:2] and page.has_more

    # A video that is not there yet; deleting it cancels the job.
    late = client.videos.create(
        prompt="p", extra_body={**image, "not_before": "2999-01-01T00:00:00Z", "priority": 3}
    )
    assert late.status == "queued" and late.reelq["priority"] == 3
    expect(
        openai.ConflictError,
        lambda: client.videos.download_content(late.id),
        code="video_not_ready",
    )
    deleted = client.videos.delete(late.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (late.id, True, "video.deleted")
    assert job(late)["state"] == "cancelled" and job(late)["submissions"] == []

    # A finished one goes from the list; its file and its ledger stay.
    assert client.videos.delete(video.id).deleted
    expect(openai.NotFoundError, lambda: client.videos.retrieve(video.id))
    assert video.id not in [each.id for each in client.videos.list(limit=100)]
    assert job(video)["state"] == "done" and os.path.exists(job(video)["path"])

    asyncio.run(asynchronous(base, token, image))
    print(f"openai {openai.__version__}: all of it holds")


async def asynchronous(base, token, image):
    """Eight at once with the asynchronous client."""
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key=token or "any") as client:
        videos = await asyncio.gather(
            *(
                client.videos.create_and_poll(
                    prompt=f"scene {number}",
                    extra_body={**image, "key": f"{RUN}-{number}"},
                    poll_interval_ms=200,
                )
                for number in range(8)
            )
        )
        assert len({video.id for video in videos}) == 8
        assert all(video.status == "completed" for video in videos), videos
        content = await client.videos.download_content(videos[0].id)
        assert (await content.aread())[4:8] == b"ftyp"


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), sys.argv[2] if len(sys.argv) > 2 else None)
