// The agenthub plugin: makes an OpenCode process an endpoint of the hub.
//
// Inside each process it tells the hub, over a unix socket, which sessions live there and how they are, takes prompts
// for them, and writes into each call of a hub's tool who calls. What is said over the socket is in docs/endpoint.md;
// what is done about it is the hub's business. OpenCode must never suffer from it: whatever fails here leaves OpenCode
// as if the plugin were not there. So it imports nothing, waits for nothing, and each hook catches what goes wrong.
//
// OpenCode wants the half that works beside the server and the half that looks at the screen as two modules, so
// `agenthub setup` installs this file twice: the copy called window.js is the second half.

const MOST = 1000 // sessions that are told of, calls that can be claimed
const MOST_BYTES = 64_000_000 // of a request: a burst of the longest messages
const UNREAD = 1_000_000 // bytes that a listener may leave unread
const PLACING = 2_000 // ms in which a prompt has its place, or it never will
const LONGEST_PATH = 103 // bytes that a unix socket's path may have on every system
const AGAIN = 1_000 // ms between two looks for the hub's directory
const STARTING = 2_000 // ms in which a prompt's turn begins, or it never will
const HEARTBEAT = 10_000 // ms
const GLANCE = 200 // ms between two looks at the screen: sooner than a person reads
const TOAST = 8_000 // ms

const builtin = process.getBuiltinModule

/** Whether the hub put this prompt in: a message, or a note, which wakes nobody. */
export const isMessage = (id) => /^msg_[0-9a-f]{12}AgHub/.test(id)
export const isNote = (id) => /^msg_[0-9a-f]{12}AgTld/.test(id)

/** What is known of this process's sessions; `tell(event, object)` hears of every change. */
export class Sessions {
  #sessions = new Map() // by id, the one used last at the end
  #parents = new Map() // by the id of a subagent's session
  #awaited = new Map() // who waits for a prompt to have its place, by its id
  #onScreen // an id, or null; undefined where there is no screen

  constructor(tell, now = Date.now, later = (act, ms) => setTimeout(act, ms).unref()) {
    Object.assign(this, { tell, now, later })
  }

  list = () => [...this.#sessions.values()].map((session) => this.#described(session))

  stateOf(id) {
    const { asked, turn, starting } = this.#sessions.get(id) ?? {}
    if (asked?.size) return "waiting"
    return turn || this.now() < starting ? "busy" : "idle"
  }

  /** The session itself, or the one for which this subagent works. */
  rootOf(id) {
    while (this.#parents.has(id)) id = this.#parents.get(id)
    return id
  }

  /** A prompt goes into a session. The parts of its user's own are not all made up by OpenCode. */
  prompted(id, messageID, parts) {
    this.#awaited.get(messageID)?.()
    if (this.#parents.has(id)) return
    const session = this.#live(id)
    session.prompts.push(messageID)
    if (!isNote(messageID)) {
      session.starting = this.now() + STARTING
      this.later(() => this.#changed(session), STARTING)
      if (!isMessage(messageID) && !parts.every((part) => part.synthetic)) session.used = this.now()
    }
    this.#changed(session)
  }

  /** Another session is on screen, or none (null). */
  show(id) {
    if (id === this.#onScreen) return
    this.#onScreen = id
    if (id && !this.#parents.has(id)) this.#live(id).opened = this.now()
    for (const session of this.#sessions.values()) this.#changed(session)
  }

  /** OpenCode tells of something. */
  handle({ type, properties }) {
    this.#hears[type]?.(properties)
  }

  #hears = {
    "session.created": ({ sessionID: id, info }) => this.#created(id, info),
    "session.updated": ({ sessionID: id, info }) => this.#updated(id, info),
    "session.deleted": ({ sessionID: id }) => this.#forget(id),
    "session.status": ({ sessionID: id, status }) => (status.type === "idle" ? this.#idle(id) : this.#busy(id)),
    "session.error": ({ sessionID: id, error }) => this.#failed(id, error?.name),
    "session.compacted": ({ sessionID: id }) => this.#sessions.has(id) && this.tell("compacted", { id }),
    "message.updated": ({ sessionID: id, info }) => info.role === "assistant" && this.#step(id, info),
    "permission.asked": (said) => this.#asked(said),
    "permission.replied": (said) => this.#answered(said),
    "question.asked": (said) => this.#asked(said),
    "question.replied": (said) => this.#answered(said),
    "question.rejected": (said) => this.#answered(said),
  }

  #created(id, info) {
    if (!info.parentID) this.#live(id).opened = this.now()
    this.#updated(id, info)
  }

  #updated(id, { parentID, agent, model }) {
    if (parentID) return this.#subagent(id, parentID)
    const session = this.#sessions.get(id)
    if (session) this.#changed(Object.assign(session, { agent, model }))
  }

  /** Until a prompt has its place in the session: one that is handed over before that may overtake it. */
  placed(messageID) {
    const placed = new Promise((resolve) => {
      this.#awaited.set(messageID, resolve)
      this.later(resolve, PLACING)
    })
    return placed.then(() => this.#awaited.delete(messageID))
  }

  #subagent(id, parent) {
    this.#forget(id)
    this.#parents.set(id, parent)
  }

  #forget(id) {
    this.#parents.delete(id)
    if (this.#sessions.delete(id)) this.tell("gone", { id })
  }

  #busy(id) {
    if (this.#parents.has(id)) return
    const session = this.#live(id)
    session.starting = 0
    session.turn ??= { began: this.now(), steps: new Map(), error: null }
    this.#changed(session)
  }

  #idle(id) {
    this.#ask(id, (asked) => {
      for (const [request, asker] of asked) if (asker === id) asked.delete(request)
    })
    const session = this.#sessions.get(id)
    if (!session) return
    const { turn } = session
    Object.assign(session, { turn: null, starting: 0 })
    this.#changed(session)
    if (turn) this.#ended(session, turn)
  }

  /** A turn's step is told of several times, once more even after an abort; the last word counts. */
  #step(sessionID, { id, parentID, tokens, cost, error }) {
    const { turn, past } = this.#sessions.get(sessionID) ?? {}
    if (!turn || past.has(id)) return
    turn.steps.set(id, { parentID, tokens, cost })
    turn.error = error?.name ?? null
  }

  #failed(id, error) {
    const { turn } = this.#sessions.get(id) ?? {}
    if (turn) turn.error = error ?? null
  }

  /** A turn was about the prompts up to the last that it has answered; later ones are the next turn's. */
  #ended(session, { began, error, steps }) {
    session.past = steps
    const all = [...steps.values()]
    const answered = all.map((step) => session.prompts.indexOf(step.parentID) + 1)
    const prompts = session.prompts.splice(0, error && !all.length ? MOST : Math.max(0, ...answered))
    const { tokens, cost } = spentOn(all)
    if (!prompts.length && !tokens.input && !tokens.output) return // a command of the shell
    this.tell("turn", { id: session.id, began, ended: this.now(), prompts, tokens, cost, error })
  }

  /** What the user is asked in a session, or in a subagent of it. */
  #ask(id, act) {
    const session = this.#sessions.get(this.rootOf(id))
    if (!session) return
    act(session.asked)
    this.#changed(session)
  }

  #asked({ sessionID, id }) {
    this.#ask(sessionID, (asked) => asked.set(id, sessionID))
  }

  #answered({ sessionID, requestID }) {
    this.#ask(sessionID, (asked) => asked.delete(requestID))
  }

  #live(id) {
    const fresh = { id, used: 0, opened: 0, starting: 0, turn: null, past: new Map(), prompts: [], asked: new Map() }
    const session = this.#sessions.get(id) ?? fresh
    this.#sessions.delete(id)
    this.#sessions.set(id, session)
    const dull = (each) => each !== session && each.id !== this.#onScreen && this.stateOf(each.id) === "idle"
    if (this.#sessions.size > MOST) this.#sessions.delete([...this.#sessions.values()].find(dull)?.id)
    return session
  }

  #described({ id, used, opened, agent, model }) {
    const shown = this.#onScreen === undefined ? null : this.#onScreen === id
    return { id, state: this.stateOf(id), used, opened, shown, agent, model }
  }

  #changed(session) {
    const object = this.#described(session)
    const text = JSON.stringify(object)
    if (text === session.told || !this.#sessions.has(session.id)) return
    session.told = text
    this.tell("session", object)
  }
}

function spentOn(steps) {
  const sum = (figure) => steps.reduce((total, step) => total + (figure(step) ?? 0), 0)
  const tokens = {
    input: sum((step) => step.tokens.input),
    output: sum((step) => step.tokens.output),
    reasoning: sum((step) => step.tokens.reasoning),
    cache: { read: sum((step) => step.tokens.cache.read), write: sum((step) => step.tokens.cache.write) },
  }
  return { tokens, cost: sum((step) => step.cost) }
}

const PREFIX = "agent-hub_"
const ALWAYS = { send_message: "from", resolve_thread: "from", get_messages: "agent", register_agent: "id" }
const WHERE_SET = ["from", "agent", "agentId", "createdBy"]

/** Write into the arguments of a hub's tool who calls. */
export function sign(tool, args, name) {
  if (ALWAYS[tool]) args[ALWAYS[tool]] = name
  else if (tool !== "search_messages") for (const key of WHERE_SET) if (key in args) args[key] = name
}

/** The calls of the hub's tools that are under way, and who made them. */
export class Calls {
  #calls = new Map()

  /** `file` is where the hub writes down the sessions' agents. */
  constructor(file) {
    this.file = file
  }

  sign(tool, callID, session, args) {
    if (!tool.startsWith(PREFIX)) return
    const call = { tool: tool.slice(PREFIX.length), name: this.#agents()[session]?.agentId ?? session, session }
    sign(call.tool, args, call.name)
    this.#calls.set(callID, call)
    if (this.#calls.size > MOST) this.end(this.#calls.keys().next().value)
  }

  end(callID) {
    this.#calls.delete(callID)
  }

  /** The session of a call; none can be claimed twice. */
  claim(tool, name) {
    const [callID, call] = [...this.#calls].find(([, call]) => call.tool === tool && call.name === name) ?? []
    this.end(callID)
    return call?.session
  }

  #agents() {
    try {
      const { mtimeMs } = builtin("node:fs").statSync(this.file)
      if (mtimeMs !== this.read) this.names = JSON.parse(builtin("node:fs").readFileSync(this.file, "utf8"))
      this.read = mtimeMs
      return this.names
    } catch {
      return {} // none has a name yet
    }
  }
}

/** A channel between the two halves; where there is none, nothing is heard. */
function channel(hear) {
  if (typeof BroadcastChannel === "undefined") return { postMessage() {}, close() {} }
  const halves = new BroadcastChannel("agenthub")
  halves.onmessage = ({ data }) => hear(data)
  halves.unref()
  return halves
}

const refusal = (status, error) => [status, { error }]
const inEvent = (event, object) => `event: ${event}\ndata: ${JSON.stringify(object)}\n\n`

/** What the hub connects to: one for the whole process. */
class Endpoint {
  users = new Map() // by directory, the newest call of server()
  opencode = null
  #streams = new Set()
  #again = 0

  constructor(directory) {
    this.directory = directory
    this.path = `${directory}/run/${process.pid}.sock`
    this.sessions = new Sessions((event, object) => this.#send(inEvent(event, object)))
    this.calls = new Calls(`${directory}/session_agents.json`)
    this.halves = channel(({ shown, opencode }) => {
      if (opencode) this.opencode = opencode
      if (opencode) this.sessions.show(shown)
    })
    this.halves.postMessage({ ask: true })
  }

  /** Begin to listen where there is a hub. Called at every event, it looks once a second. */
  listen() {
    if (Date.now() < this.#again) return
    this.#again = Date.now() + AGAIN
    const fs = builtin("node:fs")
    const listening = this.server && fs.existsSync(this.path)
    if (listening || !fs.existsSync(this.directory) || Buffer.byteLength(this.path) > LONGEST_PATH) return
    this.server?.close() // somebody has removed its socket
    fs.rmSync(this.path, { force: true }) // of an earlier process with this id
    fs.mkdirSync(`${this.directory}/run`, { recursive: true })
    fs.chmodSync(`${this.directory}/run`, 0o700)
    this.server = builtin("node:http").createServer((request, response) => this.#answer(request, response))
    this.server.on("error", () => (this.server = undefined))
    this.server.listen(this.path)
    this.server.unref()
  }

  close() {
    for (const stream of this.#streams) stream.end()
    this.server?.close()
    this.server = undefined
    this.#again = 0
    builtin("node:fs").rmSync(this.path, { force: true })
  }

  handle(event) {
    if (event.type === "session.created") this.opencode = event.properties.info.version
    const { type, callID, state } = event.properties?.part ?? {}
    if (type === "tool" && /^(completed|error)$/.test(state.status)) this.calls.end(callID)
    this.sessions.handle(event)
    this.listen()
  }

  async #answer(request, response) {
    if (request.method === "GET" && request.url === "/events") return this.#stream(response)
    const [status, object] = await this.#decide(request).catch((error) => refusal(500, String(error)))
    response.writeHead(status, { "content-type": "application/json" })
    response.end(object && request.method !== "HEAD" ? JSON.stringify(object) : "")
  }

  async #decide(request) {
    if (request.method === "GET" && request.url === "/") return [200, this.#hello()]
    const [, id] = request.url.match(/^\/sessions\/(\w+)\/prompts$/) ?? []
    if (request.method !== "POST" || !(id || request.url === "/claim")) return refusal(501, "no such request")
    let text = "" // what is too much is read all the same, so that the answer is, too
    for await (const chunk of request.setEncoding("utf8")) if (text.length <= MOST_BYTES) text += chunk
    if (text.length > MOST_BYTES) return refusal(413, "more than 64 MB")
    const body = objectIn(text)
    if (!body) return refusal(400, "no JSON object")
    return id ? this.#prompts(id, body) : this.#claim(body)
  }

  async #prompts(id, { prompts, before }) {
    for (const [accepted, prompt] of prompts.entries()) {
      const refused = await this.#prompt(id, prompt, before)
      if (refused) return [200, { accepted, refused }]
    }
    return [200, { accepted: prompts.length }]
  }

  /** Why a prompt was refused; nothing if it was accepted. */
  async #prompt(id, body, before) {
    const state = this.sessions.stateOf(id)
    const unwelcome = state === "waiting" || (body.noReply && state !== "idle")
    if (Date.now() > before) return { status: 408, error: "it is too late" }
    if (unwelcome) return { status: 409, error: `it is ${state}` }
    const placed = this.sessions.placed(body.messageID)
    const { error, response } = await this.client.session.promptAsync({ path: { id }, body })
    if (error) return { status: response.status, error: error.data?.message ?? JSON.stringify(error) }
    await placed
  }

  async #claim({ tool, name }) {
    const session = this.calls.claim(tool, name)
    if (!session) return refusal(404, "no such call")
    const { data } = await this.client.session.get({ path: { id: session } })
    return [200, { session, slug: data.slug, directory: data.directory }]
  }

  #hello() {
    return { protocol: 1, plugin: 1, pid: process.pid, opencode: this.opencode, sessions: this.sessions.list() }
  }

  #stream(response) {
    response.writeHead(200, { "content-type": "text/event-stream" })
    response.write(inEvent("hello", this.#hello()))
    const heart = setInterval(() => response.write(": alive\n\n"), HEARTBEAT)
    heart.unref()
    this.#streams.add(response)
    response.on("close", () => {
      clearInterval(heart)
      this.#streams.delete(response)
    })
  }

  #send(text) {
    for (const stream of this.#streams) {
      if (stream.writableLength < UNREAD) stream.write(text)
      else stream.destroy() // its listener does not read
    }
  }
}

function objectIn(text) {
  try {
    const value = JSON.parse(text)
    return value?.constructor === Object ? value : undefined
  } catch {
    return undefined
  }
}

const ONE = Symbol.for("agenthub") // though installed twice, it is one endpoint

/** The half beside the server: OpenCode calls it for each directory, and anew when it has read its settings again. */
async function server({ client, directory }) {
  const hub = process.env.AGENT_HUB_DIR || `${builtin("node:os").homedir()}/.agent-hub`
  globalThis[ONE] ??= new Endpoint(hub)
  const endpoint = globalThis[ONE]
  const me = {}
  function hook(act) {
    return (...given) => {
      try {
        if (endpoint.users.get(directory) === me) act(...given)
      } catch {
        // OpenCode goes on without us
      }
    }
  }
  endpoint.users.set(directory, me)
  endpoint.client = client
  hook(() => endpoint.listen())()
  return {
    event: hook(({ event }) => endpoint.handle(event)),
    "chat.message": hook(({ sessionID }, { message, parts }) => {
      endpoint.sessions.prompted(sessionID, message.id, parts)
    }),
    "tool.execute.before": hook(({ tool, sessionID, callID }, { args }) => {
      endpoint.calls.sign(tool, callID, endpoint.sessions.rootOf(sessionID), args)
    }),
    dispose: hook(() => {
      endpoint.users.delete(directory)
      if (!endpoint.users.size) endpoint.close()
    }),
  }
}

/** The key that opens the list of sessions, as this user has it, or else what to type. */
function keyOfTheList(api) {
  try {
    const bindings = api.keymap.getCommandBindings({ visibility: "registered", commands: ["session.list"] })
    return api.keys.formatBindings(bindings.get("session.list")) || "/sessions"
  } catch {
    return "/sessions"
  }
}

/** The half that looks at the screen. */
async function tui(api) {
  const seen = new Set()
  const told = new Set()
  let shown
  const tell = () => halves.postMessage({ shown, opencode: api.app.version })
  const halves = channel(({ ask }) => ask && tell())
  const look = () => {
    const { name, params } = api.route.current
    const now = name === "session" ? params.sessionID : null
    if (now === shown) return
    shown = now
    seen.add(now)
    tell()
  }
  look()
  setInterval(look, GLANCE).unref()
  api.event.on("message.updated", ({ properties: { info } }) => {
    if (!isMessage(info.id) || told.has(info.id)) return
    told.add(info.id)
    if (!seen.has(info.sessionID) || info.sessionID === shown) return
    const title = api.state.session.get(info.sessionID)?.title ?? info.sessionID
    const message = `A message came to "${title}". ${keyOfTheList(api)} opens the list of sessions.`
    api.ui.toast({ title: "agenthub", message, variant: "info", duration: TOAST })
  })
}

export default import.meta.url.endsWith("/window.js") ? { id: "agenthub-window", tui } : { id: "agenthub", server }
