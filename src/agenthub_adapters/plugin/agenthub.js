// The agenthub plugin: makes an OpenCode process an endpoint of the hub.
//
// Inside each process it tells the hub, over a unix socket, which sessions live there and how they are, takes prompts
// for them, and writes into each call of a hub's tool who calls. What is said over the socket is in docs/endpoint.md;
// what is done about it is the hub's business. OpenCode must never suffer from it: whatever fails here leaves OpenCode
// as if the plugin were not there. So it imports nothing, waits for nothing, and each hook catches what goes wrong.
//
// OpenCode wants the half that works beside the server and the half that looks at the screen as two modules, so
// `agenthub setup` installs this file twice: the copy called window.js is the second half.

const PROTOCOL = 1
const VERSION = 1

const MOST_SESSIONS = 1000
const MOST_CALLS = 1000
const MOST_BYTES = 1_000_000 // of a request, and of what a listener has not read yet
const LONGEST_PATH = 103 // bytes that a unix socket's path may have on every system
const AGAIN = 1_000 // ms between two looks for a hub's directory
const STARTING = 2_000 // ms in which a prompt's turn begins, or it never will
const HEARTBEAT = 10_000 // ms
const GLANCE = 200 // ms between two looks at the screen: sooner than a person reads
const TOAST = 8_000 // ms

const builtin = process.getBuiltinModule

/** Whether the id is of a prompt the hub put in: a message, or a note, which wakes nobody. */
export const isMessage = (id) => /^msg_[0-9a-f]{12}AgHub/.test(id)
export const isNote = (id) => /^msg_[0-9a-f]{12}AgTld/.test(id)

/** What is known of this process's sessions; `tell(event, object)` hears of every change. */
export class Sessions {
  #sessions = new Map() // by id; the one that something was done in last is the last
  #parents = new Map() // of the subagents' sessions
  #onScreen // the id of a session, or null; undefined where there is no screen

  constructor(tell, now = Date.now, later = (act, ms) => setTimeout(act, ms).unref()) {
    Object.assign(this, { tell, now, later })
  }

  list = () => [...this.#sessions.values()].map((session) => this.#described(session))

  stateOf(id) {
    const session = this.#sessions.get(id)
    if (!session) return "idle"
    if (session.asked.size) return "waiting"
    return session.turn || this.now() < session.starting ? "busy" : "idle"
  }

  /** The session itself, or the one for which this subagent works. */
  rootOf(id) {
    while (this.#parents.has(id)) id = this.#parents.get(id)
    return id
  }

  /** A prompt goes into a session; its user's own has parts that OpenCode did not make up. */
  prompted(id, messageID, parts = [{}]) {
    if (this.#parents.has(id)) return
    const session = this.#live(id)
    session.prompts.push(messageID)
    if (!isNote(messageID)) this.#expectTurn(session)
    if (!isNote(messageID) && !isMessage(messageID) && parts.some((part) => !part.synthetic)) session.used = this.now()
    this.#changed(session)
  }

  /** Another session is on screen, or none (null). */
  show(id) {
    if (id === this.#onScreen) return
    this.#onScreen = id
    if (id && !this.#parents.has(id)) this.#live(id).opened = this.now()
    this.#sessions.forEach((session) => this.#changed(session))
  }

  /** OpenCode tells of something. */
  handle({ type, properties: { sessionID: id, info, ...said } = {} }) {
    switch (type) {
      case "session.created":
      case "session.updated":
        if (info.parentID) this.#isSubagent(id, info.parentID)
        else if (type === "session.created") this.#created(id)
        break
      case "session.deleted":
        this.#parents.delete(id)
        this.#forget(id)
        break
      case "session.status":
        if (said.status.type === "idle") this.#idle(id)
        else if (!this.#parents.has(id)) this.#busy(this.#live(id))
        break
      case "session.error":
        this.#turnOf(id, (turn) => (turn.error = said.error?.name ?? null))
        break
      case "session.compacted":
        this.tell("compacted", { id })
        break
      case "message.updated":
        if (info.role === "assistant") this.#turnOf(id, (turn, past) => stepped(turn, past, info))
        break
      case "permission.asked":
      case "question.asked":
        this.#ask(id, (asked) => asked.set(said.id, id))
        break
      case "permission.replied":
      case "question.replied":
      case "question.rejected":
        this.#ask(id, (asked) => asked.delete(said.requestID))
    }
  }

  #created(id) {
    const session = this.#live(id)
    session.opened = this.now()
    this.#changed(session)
  }

  #isSubagent(id, parent) {
    this.#parents.set(id, parent)
    this.#forget(id)
  }

  #forget(id) {
    if (this.#sessions.delete(id)) this.tell("gone", { id })
  }

  #expectTurn(session) {
    session.starting = this.now() + STARTING
    this.later(() => this.#changed(session), STARTING)
  }

  #busy(session) {
    session.starting = 0
    session.turn ??= { began: this.now(), steps: new Map(), error: null }
    this.#changed(session)
  }

  #idle(id) {
    this.#ask(id, (asked) => asked.forEach((asking, request) => asking === id && asked.delete(request)))
    const session = this.#sessions.get(id)
    if (!session) return
    const { turn } = session
    Object.assign(session, { turn: null, starting: 0 })
    this.#changed(session)
    if (turn) this.#ended(session, turn)
  }

  /** A turn was about the prompts up to the last that it has answered; later ones are the next turn's. */
  #ended(session, { began, steps, error }) {
    session.past = steps
    const answered = [...steps.values()].map((step) => session.prompts.indexOf(step.parentID))
    const failed = error && !steps.size ? session.prompts.length - 1 : -1
    const prompts = session.prompts.splice(0, Math.max(failed, ...answered) + 1)
    const sum = { tokens: { input: 0, output: 0, reasoning: 0, cache: { read: 0, write: 0 } }, cost: 0 }
    steps.forEach((step) => add(sum, step))
    const spent = sum.tokens.input || sum.tokens.output
    if (prompts.length || spent) this.tell("turn", { id: session.id, began, ended: this.now(), prompts, ...sum, error })
  }

  #turnOf(id, act) {
    const session = this.#sessions.get(id)
    if (session?.turn) act(session.turn, session.past)
  }

  /** Of what the user is asked, in a session or a subagent of it. */
  #ask(id, act) {
    const session = this.#sessions.get(this.rootOf(id))
    if (!session) return
    act(session.asked)
    this.#changed(session)
  }

  #live(id) {
    const fresh = { id, turn: null, past: new Map(), starting: 0, prompts: [], asked: new Map(), used: 0, opened: 0 }
    const session = this.#sessions.get(id) ?? fresh
    this.#sessions.delete(id)
    this.#sessions.set(id, session)
    if (this.#sessions.size > MOST_SESSIONS) {
      const dull = (each) => each !== session && each.id !== this.#onScreen && this.stateOf(each.id) === "idle"
      this.#sessions.delete([...this.#sessions.values()].find(dull)?.id)
    }
    return session
  }

  #described({ id, used, opened }) {
    const shown = this.#onScreen === undefined ? null : this.#onScreen === id
    return { id, state: this.stateOf(id), used, opened, shown }
  }

  #changed(session) {
    const object = this.#described(session)
    const text = JSON.stringify(object)
    if (text === session.told || !this.#sessions.has(session.id)) return
    session.told = text
    this.tell("session", object)
  }
}

/** A step of a turn was told of anew; the last word counts, except of a turn that is over. */
function stepped(turn, past, { id, parentID, tokens, cost, error }) {
  if (past.has(id)) return
  turn.steps.set(id, { parentID, tokens, cost })
  turn.error = error?.name ?? null
}

function add(sum, figures) {
  for (const [key, value] of Object.entries(sum)) {
    if (typeof value === "object") add(value, figures?.[key])
    else sum[key] += figures?.[key] ?? 0
  }
}

const PREFIX = "agent-hub_"
const NAMED = { send_message: "from", resolve_thread: "from", get_messages: "agent", register_agent: "id" }
const NAMES = ["from", "agent", "agentId", "createdBy"]

/** Write into the arguments of a hub's tool who calls. */
export function sign(tool, args, name) {
  if (NAMED[tool]) args[NAMED[tool]] = name
  else if (tool !== "search_messages") for (const key of NAMES) if (key in args) args[key] = name
}

/** The calls of the hub's tools that are under way, and the names of those who made them. */
export class Calls {
  #calls = new Map()
  #names = {}
  #read = 0

  constructor(file) {
    this.file = file
  }

  sign(tool, callID, session, args) {
    if (!tool.startsWith(PREFIX)) return
    const call = { tool: tool.slice(PREFIX.length), name: this.#nameOf(session), session }
    sign(call.tool, args, call.name)
    this.#calls.set(callID, call)
    if (this.#calls.size > MOST_CALLS) this.end(this.#calls.keys().next().value)
  }

  end(callID) {
    this.#calls.delete(callID)
  }

  claim(tool, name) {
    for (const [callID, call] of this.#calls) {
      if (call.tool !== tool || call.name !== name) continue
      this.end(callID)
      return call.session
    }
  }

  #nameOf(session) {
    const fs = builtin("node:fs")
    try {
      const { mtimeMs } = fs.statSync(this.file)
      if (mtimeMs !== this.#read) this.#names = JSON.parse(fs.readFileSync(this.file, "utf8"))
      this.#read = mtimeMs
    } catch {
      this.#names = {} // none has a name yet
    }
    return this.#names[session]?.agentId ?? session
  }
}

/** A channel between the two halves; where there is none, nothing is heard. */
function channel(hear) {
  if (typeof BroadcastChannel === "undefined") return { postMessage() {}, close() {} }
  const channel = new BroadcastChannel("agenthub")
  channel.onmessage = ({ data }) => hear(data)
  channel.unref?.()
  return channel
}

const refusal = (status, error, more) => [status, { error, ...more }]

async function bodyOf(request) {
  const chunks = []
  let size = 0
  for await (const chunk of request) {
    size += chunk.length
    if (size <= MOST_BYTES) chunks.push(chunk) // what is more is read all the same, so that the answer is, too
  }
  if (size > MOST_BYTES) throw refusal(413, "more than a megabyte")
  try {
    const body = JSON.parse(Buffer.concat(chunks).toString())
    if (body && typeof body === "object" && !Array.isArray(body)) return body
  } catch {}
  throw refusal(400, "no JSON object")
}

/** What the hub connects to: one for the whole process. */
class Endpoint {
  #streams = new Set()
  #again = 0

  constructor(directory) {
    this.directory = directory
    this.path = `${directory}/run/${process.pid}.sock`
    this.sessions = new Sessions((event, object) => this.#send(`event: ${event}\ndata: ${JSON.stringify(object)}\n\n`))
    this.calls = new Calls(`${directory}/session_agents.json`)
    this.users = new Map() // by directory, the newest call of server()
    this.opencode = null
    this.channel = channel(({ shown, opencode }) => {
      if (shown === undefined) return
      this.opencode = opencode
      this.sessions.show(shown)
    })
    this.channel.postMessage({ ask: true })
  }

  /** Begin to listen where there is a hub; called at every event, it looks once a second. */
  listen() {
    const fs = builtin("node:fs")
    if (Date.now() < this.#again) return
    this.#again = Date.now() + AGAIN
    if (fs.existsSync(this.path) && this.server) return
    if (!fs.existsSync(this.directory) || Buffer.byteLength(this.path) > LONGEST_PATH) return
    this.close()
    fs.mkdirSync(`${this.directory}/run`, { recursive: true })
    fs.chmodSync(`${this.directory}/run`, 0o700)
    fs.rmSync(this.path, { force: true }) // of an earlier process with this id
    const server = builtin("node:http").createServer((request, response) => this.#answer(request, response))
    server.on("error", () => (this.server = undefined))
    server.listen(this.path)
    server.unref()
    this.server = server
  }

  close() {
    clearInterval(this.heart)
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
    const [status, object] = await this.#decide(request).catch((thrown) => {
      return Array.isArray(thrown) ? thrown : refusal(500, String(thrown))
    })
    response.writeHead(status, { "content-type": "application/json" })
    response.end(object && request.method !== "HEAD" ? JSON.stringify(object) : "")
  }

  async #decide(request) {
    if (request.method === "GET" && request.url === "/") return [200, this.#hello()]
    const [, id] = request.url.match(/^\/sessions\/(\w+)\/prompt$/) ?? []
    if (request.method !== "POST" || !(id || request.url === "/claim")) return refusal(501, "no such request")
    const body = await bodyOf(request)
    return id ? this.#prompt(id, body) : this.#claim(body)
  }

  async #prompt(id, body) {
    const state = this.sessions.stateOf(id)
    const unwelcome = state === "waiting" || (body.noReply && state !== "idle")
    if (unwelcome) return refusal(409, `the session is ${state}`, { state })
    const { error, response } = await this.client.session.promptAsync({ path: { id }, body })
    return error ? refusal(response?.status ?? 500, error.data?.message ?? JSON.stringify(error)) : [204]
  }

  async #claim({ tool, name }) {
    const session = this.calls.claim(tool, name)
    if (!session) return refusal(404, "no such call")
    const { data } = await this.client.session.get({ path: { id: session } })
    return [200, { session, slug: data.slug, directory: data.directory }]
  }

  #hello() {
    const { opencode, sessions } = this
    return { protocol: PROTOCOL, plugin: VERSION, pid: process.pid, opencode, sessions: sessions.list() }
  }

  #stream(response) {
    response.writeHead(200, { "content-type": "text/event-stream" })
    response.write(`event: hello\ndata: ${JSON.stringify(this.#hello())}\n\n`)
    response.on("close", () => this.#streams.delete(response))
    this.#streams.add(response)
    clearInterval(this.heart)
    this.heart = setInterval(() => this.#send(": alive\n\n"), HEARTBEAT)
    this.heart.unref()
  }

  #send(text) {
    for (const stream of this.#streams) {
      if (stream.writableLength > MOST_BYTES) stream.destroy() // its listener does not read
      else stream.write(text)
    }
    if (!this.#streams.size) clearInterval(this.heart)
  }
}

/** The half beside the server: OpenCode calls it once for each directory, and again after a change of settings. */
function server({ client, directory }) {
  const hub = process.env.AGENT_HUB_DIR || `${builtin("node:os").homedir()}/.agent-hub`
  const endpoint = (globalThis[Symbol.for("agenthub")] ??= new Endpoint(hub)) // though installed twice, one is enough
  const me = {}
  const hook = (act) => (...given) => {
    try {
      if (endpoint.users.get(directory) === me) act(...given)
    } catch {}
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

/** The half that looks at the screen. */
function tui(api) {
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
  const glance = setInterval(look, GLANCE)
  glance.unref()
  api.event.on("message.updated", ({ properties: { info } }) => {
    if (!isMessage(info.id) || told.has(info.id)) return
    told.add(info.id)
    if (!seen.has(info.sessionID) || info.sessionID === shown) return
    const title = api.state.session.get(info.sessionID)?.title ?? info.sessionID
    const keys = api.keys?.formatBindings(api.tuiConfig.keybinds.get("session.list")) || "/sessions"
    const message = `A message came to "${title}". To see it: ${keys}`
    api.ui.toast({ title: "agenthub", message, variant: "info", duration: TOAST })
  })
  api.lifecycle?.onDispose(() => {
    clearInterval(glance)
    halves.close()
  })
}

export default import.meta.url.endsWith("/window.js") ? { id: "agenthub-window", tui } : { id: "agenthub", server }
