"""The `SessionRelay` over OpenCode's HTTP API, as measured on OpenCode 1.18.33.

What it must know of OpenCode, and the core need not:

- 204 means accepted, not held: the receipt is the message itself, asked for by its id. OpenCode
  stores it first and its text after it, so without the text it is no receipt.
- A prompt runs as the agent `build` unless it names the session's own agent and model.
- Two processes at work on one session lose turns, and a server knows only of its own. So a prompt
  goes through the process to which the session belongs, if that is an endpoint. Else the session's
  last message tells whether a turn is under way in any of them; of the hub's own prompts we know
  that their turn runs in this server.
- The same message id and part id are one message, and repeating an old one makes the model speak.
- What is stored without waking the model (`noReply`) is taken for a new prompt by a turn that is
  under way, in any process: so it goes in only while there is none. As a session's first message
  it would be taken for the beginning of its user's, which gets no title then: so it is marked as
  a program's.

How requests and answers look is told in `opencode_api`; finding, starting and stopping the server
is `opencode_server`'s business.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Protocol

from attrs import frozen

from agenthub_adapters.opencode_api import (
    OWN,
    OWN_PROMPT,
    USER,
    Info,
    Model,
    OpenCodeApi,
    Part,
    Rule,
    SessionRow,
    Setting,
    Unicode,
    gone,
    prompt_body,
    usage,
)
from agenthub_core import (
    Clock,
    ModelUnknown,
    Prompt,
    PromptNotHeld,
    Receipt,
    RelayError,
    Session,
    SessionBusy,
    SessionSpec,
    Turn,
    TurnFailed,
    TurnState,
)

_TOLD = "AgTld"
"""The same in the ids of those that wake nobody: as a session's last message they are no sign of a
turn under way, although nobody answers them."""

_TOLD_MESSAGE = re.compile(rf"msg_[0-9a-f]{{12}}{_TOLD}[0-9A-Za-z]+")

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_PLAIN = "build"
"""The agent that every OpenCode has; what a session may do is told by its own rules."""

_FRESH = 0.25
"""Seconds for which a look at a session holds: shorter than a person needs to start something."""

_REMEMBERED = 10_000  # looks; some megabytes

_BETWEEN = 8  # messages of others among those of a burst

_FIRST_LOOK = 0.002  # seconds before the receipt is asked for again; doubles each time
_LONGEST_WAIT = 0.25  # seconds between two askings: 20 in the 5 s of the default timeout


class Owner(Protocol):
    """The process to which a session belongs."""

    def setting(self, session_id: str) -> Setting | None:
        """What the session works with now; None where its process has not heard."""
        ...

    def prompt(
        self, session_id: str, bodies: Sequence[Mapping[str, Any]]
    ) -> tuple[int, RelayError | None]:
        """Hand prompts to a session, in order; how many were accepted, and why no more were.

        They are accepted, not held. Raises `RelayUnreachable` where nobody knows what was done.
        """
        ...


class Owners(Protocol):
    """The processes in which sessions may live, as far as they tell."""

    def owner(self, session_id: str) -> Owner | None:
        """The one to which a session belongs; None where it lives in none of them."""
        ...

    def at_work(self, session_id: str) -> bool:
        """Whether one of them is in the middle of a turn of the session."""
        ...

    def lost(self, session_id: str) -> datetime | None:
        """When a process ended in the middle of a turn of the session, if one did."""
        ...


class _Nobody:
    def owner(self, _: str) -> None:
        return None

    def at_work(self, _: str) -> bool:
        return False

    def lost(self, _: str) -> None:
        return None


@frozen(kw_only=True)
class _Look:
    """A session as it is now, and its last message, if any."""

    session: SessionRow
    last: Info | None

    @property
    def is_over(self) -> bool:
        """Whether no turn is under way in the session, in any process."""
        last = self.last
        if last is None or _TOLD_MESSAGE.fullmatch(last.id):
            return True
        return (
            last.role == "assistant"
            and last.time.completed is not None
            and last.finish != "tool-calls"
        )

    @property
    def own_prompt(self) -> str | None:
        """The id of the hub's own prompt that the last message is, or answers."""
        if self.last is None:
            return None
        prompt = self.last.id if self.last.role == "user" else self.last.parent
        return prompt if OWN_PROMPT.fullmatch(prompt) else None


class OpenCodeRelay:
    """Puts prompts into the sessions of one OpenCode server. Close it when done.

    `owners` knows the processes in which sessions live, beside the server. `timeout` bounds each
    request, and the wait for a receipt. `busy_limit`: a turn under way in another process that has
    said nothing for so long is taken for one that was killed.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        password: str | None = None,
        user: str = USER,
        timeout: timedelta = timedelta(seconds=5),
        busy_limit: timedelta = timedelta(minutes=30),
        owners: Owners | None = None,
    ) -> None:
        self._api = OpenCodeApi(url, user=user, password=password, timeout=timeout)
        self._clock = clock
        self._timeout = timeout
        self._busy_limit = busy_limit
        self._owners = owners or _Nobody()
        self._lock = threading.Lock()
        self._looks: dict[str, tuple[float, _Look]] = {}

    def close(self) -> None:
        """Give back the connections."""
        self._api.close()

    # ------------------------------------------------------------------------------ the port

    def sessions(self, active: timedelta) -> Sequence[Session]:
        return list(map(_session, self._api.sessions(self._clock.now() - active)))

    def provide(self, spec: SessionSpec) -> Session:
        provider, _, name = spec.model.partition("/")
        model = Model(id=Unicode(name), providerID=Unicode(provider))
        if not self._offers(spec.directory, model):
            raise ModelUnknown(
                f"OpenCode knows no model {spec.model}. Set AGENT_HUB_COORDINATOR_MODEL to one "
                "that `opencode models` lists, or AGENT_HUB_COORDINATOR to false; if you have just "
                "added it, restart OpenCode's server, which reads its configuration only once"
            )
        rules = [Rule(permission="*", action="deny"), Rule(permission=spec.tools, action="allow")]
        rows = self._api.sessions_titled(spec.title, spec.directory)
        for row in rows:
            same_model = row.model is not None and _name(row.model) == spec.model
            if row.title == spec.title and same_model and row.permission == rules:
                return _session(row)
        return _session(
            self._api.create(
                title=spec.title,
                directory=spec.directory,
                agent=_PLAIN,
                model=model,
                rules=rules,
            )
        )

    def inject(self, prompt: Prompt) -> Receipt:
        receipts, error = self.inject_all([prompt])
        if error is not None:
            raise error
        return receipts[0]

    def inject_all(self, prompts: Sequence[Prompt]) -> tuple[Sequence[Receipt], RelayError | None]:
        receipts: list[Receipt] = []
        try:
            for is_news, together in groupby(prompts, _is_news):
                if is_news and (owner := self._owners.owner(prompts[0].session_id)) is not None:
                    self._hand_over(list(together), owner, receipts)
                    continue
                for prompt in together:
                    self._inject(prompt)
                    receipts.append(_receipt(prompt))
        except RelayError as error:
            return receipts, error
        return receipts, None

    def turn(self, session_id: str) -> Turn:
        return self._turn(self._look(session_id, fresh=True))

    def resume(self, session_id: str, prompt_id: str) -> None:
        look = self._look(session_id, fresh=True)
        turn = self._turn(look)
        if turn.state is not TurnState.ABANDONED or turn.prompt_id != prompt_id:
            return
        if texts := self._texts(session_id, prompt_id):
            # the same ids and the same text: OpenCode adds nothing and runs the turn
            self._prompt(session_id, prompt_body(look.session, prompt_id, texts))

    # ------------------------------------------------------------------------------- prompts

    def _inject(self, prompt: Prompt) -> None:
        """Any prompt, one by itself."""
        session_id = prompt.session_id
        message_id, part_id = _ids(prompt)
        if prompt.repeated and self._texts(session_id, message_id):
            return self.resume(session_id, message_id)
        if not prompt.wakes:
            self._check_idle(session_id)
        look = self._look(session_id)  # by now as fresh as the check wanted it
        if self._at_work_elsewhere(look):
            look = self._look(session_id, fresh=True)  # its turn may have ended since
        if self._at_work_elsewhere(look):
            raise SessionBusy(
                "another OpenCode process is at work on the session; they go in when its turn ends"
            )
        synthetic = not prompt.wakes and look.last is None
        part = Part(id=part_id, type="text", text=prompt.text, synthetic=synthetic)
        self._prompt(session_id, prompt_body(look.session, message_id, [part], wakes=prompt.wakes))
        return self._await_receipt(message_id, look.session)

    def _prompt(self, session_id: str, body: Mapping[str, Any]) -> None:
        """Through the process to which the session belongs, or through the server."""
        owner = self._owners.owner(session_id)
        if owner is None:
            return self._api.prompt(session_id, body)
        _, error = owner.prompt(session_id, [body])
        if error is not None:
            raise error
        return None

    def _hand_over(self, prompts: Sequence[Prompt], owner: Owner, receipts: list[Receipt]) -> None:
        """Prompts that no session holds yet, in one go; their receipts, as they come in."""
        session_id = prompts[0].session_id
        session = owner.setting(session_id) or self._look(session_id).session
        ids = [_ids(prompt) for prompt in prompts]
        bodies = [
            prompt_body(session, message_id, [Part(id=part_id, type="text", text=prompt.text)])
            for prompt, (message_id, part_id) in zip(prompts, ids, strict=True)
        ]
        accepted, error = owner.prompt(session_id, bodies)
        held = self._held(session_id, accepted) if accepted > 1 else set()
        for prompt, (message_id, _) in zip(prompts[:accepted], ids, strict=False):
            if message_id not in held:
                self._await_receipt(message_id, session)
            receipts.append(_receipt(prompt))
        if error is not None:
            raise error

    def _held(self, session_id: str, count: int) -> set[str]:
        """The messages that the session holds, of its last ones: one request for a burst."""
        spoken = 2 * count + _BETWEEN  # the model may have answered each, in the meantime
        last = self._api.last_messages(session_id, spoken) or []
        return {each.info.id for each in last if any(part.type == "text" for part in each.parts)}

    def _turn(self, look: _Look) -> Turn:
        session_id = look.session.id
        message_id = look.own_prompt
        if message_id is None:
            return Turn(session_id=session_id, state=TurnState.NONE)
        error = _turn_error(look)
        if error is not None:
            state = TurnState.FAILED
        elif look.is_over:
            state = TurnState.ANSWERED
        elif self._at_work_here(look):
            state = TurnState.RUNNING
        else:
            error = self._unknown_model(look)
            state = TurnState.ABANDONED if error is None else TurnState.FAILED
        return Turn(session_id=session_id, state=state, prompt_id=message_id, error=error)

    def _await_receipt(self, message_id: str, session: Setting) -> None:
        give_up = time.monotonic() + self._timeout.total_seconds()
        wait = _FIRST_LOOK
        while not self._texts(session.id, message_id):
            if time.monotonic() + wait > give_up:
                agent = session.agent
                cause = f": is there still an agent {agent}?" if agent else ""
                raise PromptNotHeld(f"OpenCode accepted the prompt, but it never appeared{cause}")
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _texts(self, session_id: str, message_id: str) -> list[Part]:
        """What the session holds of a message: none while it is not there, or not yet whole."""
        held = self._api.message(session_id, message_id)
        return [] if held is None else [part for part in held.parts if part.type == "text"]

    # ------------------------------------------------------------------------------ sessions

    def _look(self, session_id: str, *, fresh: bool = False) -> _Look:
        now = time.monotonic()
        with self._lock:
            known = self._looks.get(session_id)
        if not fresh and known is not None and now - known[0] < _FRESH:
            return known[1]
        session = self._api.session(session_id)
        messages = self._api.last_messages(session_id, 1)
        if session is None or session.time.archived is not None or messages is None:
            raise gone(session_id)
        look = _Look(session=session, last=messages[-1].info if messages else None)
        with self._lock:
            if len(self._looks) >= _REMEMBERED:
                self._looks.clear()
            self._looks[session_id] = (now, look)
        return look

    def _check_idle(self, session_id: str) -> None:
        """Raise `SessionBusy` unless nothing is under way, and the session is set up."""
        look = self._look(session_id, fresh=True)
        session = look.session
        if session.agent is None or session.model is None:
            raise SessionBusy("the session has not begun yet")
        if not look.is_over or self._at_work_here(look):
            raise SessionBusy("the session is in the middle of a turn")

    def _at_work_elsewhere(self, look: _Look) -> bool:
        if look.last is None or look.is_over or look.own_prompt is not None:
            return False
        if self._clock.now() - look.last.time.created > self._busy_limit:
            return False  # a turn that was killed looks like this, for ever
        lost = self._owners.lost(look.session.id)
        if lost is not None and look.last.time.created <= lost:
            return False  # as this one was
        return not self._at_work_here(look)

    def _at_work_here(self, look: _Look) -> bool:
        """Whether the server, or an endpoint, runs a turn of the session, or is about to."""
        if self._owners.at_work(look.session.id):
            return True
        status = self._api.statuses(look.session.directory).get(look.session.id)
        return status is not None and status.type != "idle"

    def _unknown_model(self, look: _Look) -> TurnFailed | None:
        """OpenCode says nothing at all when it does not know a session's model."""
        model = look.session.model
        if model is None or self._offers(look.session.directory, model):
            return None
        return TurnFailed(
            f"OpenCode knows no model {_name(model)}: choose another one in that session"
        )

    def _offers(self, directory: str, model: Model) -> bool:
        """Whether OpenCode knows the model there, as far as it tells."""
        known = self._api.providers(directory)
        return known is None or any(
            provider.id == model.provider and model.id in provider.models for provider in known
        )


def _is_news(prompt: Prompt) -> bool:
    """Whether it may go in with others: no session can hold it yet, and it waits for nothing."""
    return prompt.wakes and not prompt.repeated


def _receipt(prompt: Prompt) -> Receipt:
    return Receipt(prompt_id=prompt.id, session_id=prompt.session_id)


def _ids(prompt: Prompt) -> tuple[str, str]:
    """OpenCode's names of a prompt's message and part: the same for the same prompt.

    Laid out as OpenCode's own are: 12 hex digits of the time, then 14 of base 62.
    """
    moment = (int(prompt.written.timestamp() * 1000) * 0x1000) % 2**48
    digest = hashlib.sha256(f"{prompt.id} {prompt.session_id}".encode()).digest()
    own = OWN if prompt.wakes else _TOLD
    tail = "".join(_BASE62[byte % len(_BASE62)] for byte in digest)[: 14 - len(own)]
    return f"msg_{moment:012x}{own}{tail}", f"prt_{moment:012x}{own}{tail}"


def _session(row: SessionRow) -> Session:
    return Session(
        id=row.id,
        slug=row.slug,
        title=row.title,
        directory=row.directory,
        created=row.time.created,
        updated=row.time.updated or row.time.created,
        usage=usage(row.tokens, row.cost),
    )


def _name(model: Model) -> str:
    return f"{model.provider}/{model.id}"


def _turn_error(look: _Look) -> TurnFailed | None:
    error = None if look.last is None else look.last.error
    if error is None or error.name == "MessageAbortedError":  # its user stopped it
        return None
    return TurnFailed(f"{error.name}: {error.data.get('message', 'no reason given')}")
