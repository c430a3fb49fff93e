"""Settings → clients, for every door, the worker and the benchmarks: each is wired here and nowhere else."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import cached_property
from typing import TYPE_CHECKING

from calltasks.database.connection import Database
from calltasks.limiter import shared
from calltasks.names import ANALYSIS, OUTBOUND_BOT
from calltasks.platform.strategy import Strategy
from calltasks.settings import (
    AnalysisSettings,
    ArchiveSettings,
    CallingSettings,
    DatabaseSettings,
    EventSettings,
    Network,
    PlatformSettings,
    load,
    networks,
)

if TYPE_CHECKING:
    from calltasks.events.receivers import Receivers
    from calltasks.model.analysis import AnalysisModel
    from calltasks.platform.outbound_bot import OutboundBot
    from calltasks.recordings.archive import Archive
    from calltasks.recordings.downloads import Downloads


class Clients(AsyncExitStack):
    """What the environment names. Each client is made when it is first asked for, which raises SettingsError where its
    settings are missing or wrong and loads the vendor's SDK (seconds), and is closed at the end of the ``async with``.
    Temporal's (``calltasks.temporal.connection.connect``) has nothing to be closed."""

    @cached_property
    def database(self) -> Database:
        """The CRM's database."""
        database = Database(load(DatabaseSettings))
        self.callback(database.close)
        return database

    @cached_property
    def strategy(self) -> Strategy | None:
        """The strategy of new job groups, where a start gives none."""
        return load(CallingSettings).outbound_bot_strategy

    @cached_property
    def platform(self) -> OutboundBot:
        """The platform, within the rate limit that all processes share."""
        from calltasks.platform.outbound_bot import AT_ONCE, OutboundBot

        settings = load(PlatformSettings)
        platform = OutboundBot(settings, shared(self.database, OUTBOUND_BOT, settings.outbound_bot_qps, AT_ONCE))
        self.push_async_callback(platform.close)
        return platform

    @cached_property
    def model(self) -> AnalysisModel:
        """The model, within the rate limit that all processes share."""
        from calltasks.model.analysis import AnalysisModel

        settings = load(AnalysisSettings)
        limiter = shared(self.database, ANALYSIS, settings.analysis_qpm, settings.under_way, window=60)
        other = settings.of_second
        model = AnalysisModel(settings, limiter, AnalysisModel(other, limiter) if other else None)
        self.push_async_callback(model.close)
        return model

    @property
    def event_networks(self) -> tuple[Network, ...]:
        """Where events may go beside public addresses."""
        return networks(load(EventSettings).events_networks)

    @cached_property
    def receivers(self) -> Receivers:
        """The way to the receivers of events."""
        from calltasks.events.receivers import Receivers

        receivers = Receivers(self.event_networks)
        self.push_async_callback(receivers.close)
        return receivers

    @cached_property
    def downloads(self) -> Downloads:
        """What the platform's signed URLs name."""
        from calltasks.recordings.downloads import Downloads

        downloads = Downloads()
        self.push_async_callback(downloads.close)
        return downloads

    async def archive(self, *, check: bool = True) -> Archive | None:
        """Where recordings are copied, or None; ``check``: known to be writable."""
        archive = self._archive
        if archive and check:
            await archive.check()
        return archive

    @cached_property
    def _archive(self) -> Archive | None:
        settings = load(ArchiveSettings)
        if not settings.recording_archive:
            return None
        from calltasks.recordings.archive import Archive

        archive = Archive(settings)
        self.push_async_callback(archive.close)
        return archive
