"""What a simulator run is asked to be like."""

from __future__ import annotations

from dataclasses import dataclass

ACCESS_KEY_ID = "simulator-key-id"
ACCESS_KEY_SECRET = "simulator-key-secret"
DASHSCOPE_API_KEY = "simulator-dashscope-key"
INSTANCE_ID = "simulator-instance"
SCRIPT_ID = "simulator-script"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """Settings of one simulator process.

    Durations are simulated seconds unless named otherwise: `time_scale` of them pass in one real second. Rates and
    shares are 0..1. Everything random is a function of `seed` and of the contact's reference id (or phone number).
    """

    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 1

    # How calls go.
    calls_over: bool = False  # every call has its final outcome as soon as it is assigned
    time_scale: float = 1.0
    concurrency: int = 20  # calls at the same time in one job group
    seconds_per_call: float = 40.0  # mean; single calls take 0.6 to 1.4 times as long, unanswered ones 0.4 times that
    answer_rate: float = 0.4
    cancelled_rate: float = 0.0  # share of jobs that end as Cancelled
    retry_rate: float = 0.25  # share of jobs that need two or three attempts
    retry_after: float = 60.0  # between two attempts
    trailing_rate: float = 0.05  # share of answered jobs with several attempts whose last attempt did not connect
    refusal_rate: float = -1.0  # share of answered calls that refuse further ones; below 0: as courses are drawn

    # How late things appear.
    listing_lag: float = 0.0  # from AssignJobs to being listed at all
    late_rate: float = 0.0  # share of jobs that are listed only after `late_lag`
    late_lag: float = 300.0
    transcript_lag: float = 0.0  # from the end of the call to its conversation, for `transcript_lag_share` of calls
    transcript_lag_share: float = 1.0
    transcript_never: float = 0.0  # share of answered calls that never get a conversation
    recording_lag: float = 0.0
    recording_never: float = 0.0

    # Limits and answers of the platform.
    qps: float = 0.0  # calls a second (sliding window); 0: no limit
    retry_after_ms: int = 0  # x-acs-retry-after of throttling answers; 0: without the header
    latency: tuple[float, float] = (0.0, 0.0)  # real seconds, uniform between the two
    date_skew: float = 900.0  # real seconds that x-acs-date may be off
    recording_url_ttl: float = 3600.0  # real seconds (plus what /_sim/clock advanced)
    recording_bytes: int = 1600  # mean size of the audio served

    # The model.
    qpm: float = 0.0  # calls a minute (sliding window); 0: no limit
    model_latency: tuple[float, float] = (0.0, 0.0)
    json_schema: bool = True  # whether the model can be held to a schema
    retired_models: str = ""  # names of models that are not there any more, with commas between

    # Conversations from a file instead of the project's own.
    dialogues: str = ""
