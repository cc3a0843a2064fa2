// The agenthub plugin: makes an OpenCode process an endpoint of the hub.
//
// Inside each process it tells the hub, over a unix socket, which sessions live there and how they
// are, takes prompts for them, and writes into each call of a hub's tool who calls. What is said
// over the socket is in docs/endpoint.md; what is done about it is the hub's business. OpenCode
// must never suffer from it: whatever fails here leaves OpenCode as if the plugin were not there.
//
// OpenCode wants the half that works beside the server and the half that looks at the screen as
// two modules, so `agenthub setup` installs this file twice: the copy called window.js is the
// second half.

const PROTOCOL = 1
const VERSION = 1

const builtin = process.getBuiltinModule
const MOST_SESSIONS = 1000
const MOST_BYTES = 64_000_000 // a burst of the longest messages
const MOST_CALLS = 1000
const HEARTBEAT = 10_000 // ms
const GLANCE = 200 // ms between two looks at the screen: sooner than a person reads
const TOAST = 6_000 // ms

/** The hub's own prompts are known by their ids, and those of them that wake nobody. */
export const isHubs = (id) => /^msg_[0-9a-f]{12}Ag(Hub|Tld)/.test(id ?? "")
const wakesNobody = (id) => /^msg_[0-9a-f]{12}AgTld/.test(id ?? "")

// ------------------------------------------------------------------------------------ sessions

/** What is known of the sessions in this process; `tell(event, object)` hears of every change. */
export class Sessions {
  #sessions = new Map()
  #parents = new Map()
  #turns = new Map()

  constructor(tell, now = Date.now) {
    this.tell = tell
    this.now = now
  }

  list() {
    return [...this.#sessions.values()].map(described)
  }

  get(id) {
    return this.#sessions.get(id)
  }

  stateOf(id) {
    const session = this.#sessions.get(id)
    return session ? stateOf(session) : "idle"
  }

  /** A prompt goes into a session. */
  prompted(id, messageID) {
    if (this.#parents.has(id) || wakesNobody(messageID)) return
    const session = this.#live(id)
    const turn = this.#turns.get(id) ?? { began: this.now(), prompts: [], ...nothing() }
    turn.prompts.push(messageID)
    this.#turns.set(id, turn)
    if (!isHubs(messageID)) session.used = this.now()
    this.#changed(session)
  }

  /** Another session is on screen, or none; `undefined` where there is no screen. */
  show(id) {
    for (const session of this.#sessions.values()) {
      if (session.shown && session.id !== id) {
        session.shown = false
        this.#changed(session)
      }
    }
    this.onScreen = id ?? null
    if (!id || this.#parents.has(id)) return
    const session = this.#live(id)
    session.shown = true
    session.opened = this.now()
    this.#changed(session)
  }

  /** OpenCode tells of something. */
  handle({ type, properties: said }) {
    const id = said?.sessionID
    if (type === "session.created") {
      if (said.info.parentID) this.#parents.set(id, said.info.parentID)
      else {
        const session = this.#live(id)
        session.opened = this.now()
        this.#described(session, said.info)
      }
    } else if (type === "session.updated") {
      const session = this.#sessions.get(id)
      if (session) this.#described(session, said.info)
    } else if (type === "session.deleted") {
      this.#parents.delete(id)
      this.#turns.delete(id)
      if (this.#sessions.delete(id)) this.tell("gone", { id })
    } else if (type === "session.status") this.#status(id, said.status.type)
    else if (/^(permission|question)\.asked$/.test(type)) this.#ask(id, said.id, true)
    else if (/^(permission|question)\.(replied|rejected)$/.test(type)) this.#ask(id, said.requestID, false)
    else if (type === "session.compacted") this.tell("compacted", { id })
    else if (type === "message.updated") this.#message(id, said.info)
  }

  #described(session, info) {
    Object.assign(session, { slug: info.slug, directory: info.directory, agent: info.agent, model: info.model })
    this.#changed(session)
  }

  #status(id, type) {
    if (this.#parents.has(id)) return
    const session = this.#live(id)
    session.busy = type !== "idle"
    if (!session.busy) session.asked.clear()
    this.#changed(session)
    const turn = this.#turns.get(id)
    if (session.busy || !turn) return
    this.#turns.delete(id)
    const { began, prompts, tokens, cost, error } = turn
    this.tell("turn", { id, began, ended: this.now(), prompts, tokens, cost, error })
  }

  /** A question to the user, of the session or of a subagent of it. */
  #ask(id, request, open) {
    let root = id
    while (this.#parents.has(root)) root = this.#parents.get(root)
    const session = this.#live(root)
    if (open) session.asked.add(request)
    else session.asked.delete(request)
    this.#changed(session)
  }

  #message(id, info) {
    const turn = this.#turns.get(id)
    if (!turn || info.role !== "assistant" || !info.time.completed || turn.counted.has(info.id)) return
    turn.counted.add(info.id)
    add(turn.tokens, info.tokens)
    turn.cost += info.cost ?? 0
    turn.error = info.error?.name ?? null
  }

  #live(id) {
    let session = this.#sessions.get(id)
    if (!session) {
      const shown = this.onScreen === undefined ? null : this.onScreen === id
      session = { id, busy: false, asked: new Set(), used: 0, opened: 0, shown, told: "" }
    }
    this.#sessions.delete(id) // the last is the one that something was done in last
    this.#sessions.set(id, session)
    if (this.#sessions.size > MOST_SESSIONS) {
      const old = [...this.#sessions.values()].find((each) => !each.busy && !each.shown)
      if (old && old !== session) this.#sessions.delete(old.id)
    }
    return session
  }

  #changed(session) {
    const object = described(session)
    const text = JSON.stringify(object)
    if (text === session.told) return
    session.told = text
    this.tell("session", object)
  }
}

const stateOf = (session) => (session.asked.size ? "waiting" : session.busy ? "busy" : "idle")
const described = (session) => ({
  id: session.id, state: stateOf(session), used: session.used, opened: session.opened, shown: session.shown,
  agent: session.agent, model: session.model,
})
const nothing = () => ({
  tokens: { input: 0, output: 0, reasoning: 0, cache: { read: 0, write: 0 } }, cost: 0, error: null, counted: new Set(),
})
const add = (sum, figures) => {
  for (const key of Object.keys(sum)) {
    if (typeof sum[key] === "object") add(sum[key], figures?.[key])
    else sum[key] += figures?.[key] ?? 0
  }
}

// ---------------------------------------------------------------------------------- who calls

const PREFIX = "agent-hub_"
const NAMED = { send_message: "from", resolve_thread: "from", get_messages: "agent", register_agent: "id" }
const NAMES = ["from", "agent", "agentId", "createdBy"]

/** Write into a call's arguments who calls; the tool, or undefined where it is none of the hub's. */
export function sign(tool, args, name) {
  if (!tool.startsWith(PREFIX)) return undefined
  const short = tool.slice(PREFIX.length)
  if (NAMED[short]) args[NAMED[short]] = name
  else if (short !== "search_messages") for (const key of NAMES) if (key in args) args[key] = name
  return short
}

class Calls {
  #calls = []
  #names = {}
  #read = 0

  constructor(directory) {
    this.file = `${directory}/session_agents.json`
  }

  sign(tool, sessionID, args) {
    const name = this.#name(sessionID)
    const short = sign(tool, args, name)
    if (!short) return
    this.#calls.push({ tool: short, name, session: sessionID })
    if (this.#calls.length > MOST_CALLS) this.#calls.shift()
  }

  claim(tool, name) {
    const at = this.#calls.findIndex((call) => call.tool === tool && call.name === name)
    return at < 0 ? undefined : this.#calls.splice(at, 1)[0].session
  }

  #name(sessionID) {
    const fs = builtin("node:fs")
    try {
      const { mtimeMs } = fs.statSync(this.file)
      if (mtimeMs !== this.#read) {
        this.#names = JSON.parse(fs.readFileSync(this.file, "utf8"))
        this.#read = mtimeMs
      }
    } catch {} // none has a name yet
    return this.#names[sessionID]?.agentId ?? sessionID
  }
}

// --------------------------------------------------------------------------------- the endpoint

class Endpoint {
  #streams = new Set()
  #clients = new Map()

  constructor(directory) {
    this.sessions = new Sessions((event, object) => this.#tell(event, object))
    this.calls = new Calls(directory)
    this.path = `${directory}/run/${process.pid}.sock`
    this.channel = new BroadcastChannel("agenthub")
    this.channel.onmessage = ({ data }) => "shown" in data && this.sessions.show(data.shown)
    this.channel.unref?.()
    this.channel.postMessage({ ask: true })
  }

  listen(directory) {
    const fs = builtin("node:fs")
    if (!fs.existsSync(directory)) return
    fs.mkdirSync(`${directory}/run`, { recursive: true, mode: 0o700 })
    fs.rmSync(this.path, { force: true }) // of an earlier process with this id
    this.server = builtin("node:http").createServer((request, response) => this.#answer(request, response))
    this.server.on("error", () => {})
    this.server.listen(this.path, () => fs.chmodSync(this.path, 0o600))
    this.server.unref()
    this.heart = setInterval(() => this.#beat(), HEARTBEAT)
    this.heart.unref()
  }

  close() {
    clearInterval(this.heart)
    this.channel.close()
    for (const stream of this.#streams) stream.end()
    this.server?.close()
    builtin("node:fs").rmSync(this.path, { force: true })
  }

  #hello() {
    return { protocol: PROTOCOL, plugin: VERSION, pid: process.pid, sessions: this.sessions.list() }
  }

  #tell(event, object) {
    for (const stream of this.#streams) stream.write(`event: ${event}\ndata: ${JSON.stringify(object)}\n\n`)
  }

  #beat() {
    for (const stream of this.#streams) stream.write(": alive\n\n")
  }

  /** Why a prompt was not accepted; undefined if it was. */
  async #prompt(id, body, before) {
    if (Date.now() > before) return { status: 408, error: "it is too late" }
    const state = this.sessions.stateOf(id)
    if (state === "waiting" || (body.noReply && state !== "idle")) return { status: 409, error: `it is ${state}` }
    const { error, response } = await this.client.session.promptAsync({ path: { id }, body })
    return error && { status: response?.status ?? 500, error: error.data?.message ?? JSON.stringify(error) }
  }

  async #answer(request, response) {
    const reply = (status, object) => {
      response.writeHead(status, { "content-type": "application/json" })
      response.end(object === undefined ? "" : JSON.stringify(object))
    }
    try {
      if (request.url === "/" && request.method === "GET") return reply(200, this.#hello())
      if (request.url === "/events" && request.method === "GET") {
        response.writeHead(200, { "content-type": "text/event-stream" })
        response.write(`event: hello\ndata: ${JSON.stringify(this.#hello())}\n\n`)
        this.#streams.add(response)
        response.on("close", () => this.#streams.delete(response))
        return
      }
      if (request.method !== "POST") return reply(501, { error: "no such request" })
      let text = ""
      for await (const chunk of request) {
        text += chunk
        if (text.length > MOST_BYTES) return reply(413, { error: "more than a megabyte" })
      }
      let body
      try { body = JSON.parse(text) } catch { return reply(400, { error: "no JSON" }) }
      if (request.url === "/claim") {
        const session = this.calls.claim(body.tool, body.name)
        if (!session) return reply(404, { error: "no such call" })
        const { slug, directory } = this.sessions.get(session) ?? {}
        return reply(200, { session, slug, directory })
      }
      const [, id] = request.url.match(/^\/sessions\/([A-Za-z0-9_-]+)\/prompts$/) ?? []
      if (!id) return reply(501, { error: "no such request" })
      let accepted = 0
      for (const prompt of body.prompts) {
        const refused = await this.#prompt(id, prompt, body.before)
        if (refused) return reply(200, { accepted, refused })
        accepted += 1
      }
      return reply(200, { accepted })
    } catch (error) {
      if (!response.headersSent) reply(500, { error: String(error) })
    }
  }
}

let endpoint
let users = 0

/** The half beside the server: OpenCode calls it once for each directory. */
async function server({ client }) {
  try {
    const directory = process.env.AGENT_HUB_DIR || `${builtin("node:os").homedir()}/.agent-hub`
    if (!endpoint) {
      endpoint = new Endpoint(directory)
      endpoint.listen(directory)
    }
    endpoint.client = client
    users += 1
  } catch {
    return {}
  }
  const quietly = (act) => async (...given) => {
    try { await act(...given) } catch {}
  }
  return {
    event: quietly(({ event }) => endpoint.sessions.handle(event)),
    "chat.message": quietly(({ sessionID }, { message }) => endpoint.sessions.prompted(sessionID, message.id)),
    "tool.execute.before": quietly(({ tool, sessionID }, { args }) => endpoint.calls.sign(tool, sessionID, args)),
    dispose: quietly(() => {
      users -= 1
      if (users) return
      endpoint.close()
      endpoint = undefined
    }),
  }
}

// ---------------------------------------------------------------------------------- the screen

/** The half that looks at the screen. */
async function tui(api) {
  const channel = new BroadcastChannel("agenthub")
  channel.unref?.()
  let shown
  const seen = new Set()
  const told = new Set()
  const look = () => {
    const { name, params } = api.route.current
    const now = name === "session" ? params.sessionID : null
    if (now === shown) return
    shown = now
    if (now) seen.add(now)
    channel.postMessage({ shown })
  }
  channel.onmessage = ({ data }) => data.ask && channel.postMessage({ shown: shown ?? null })
  look()
  const glance = setInterval(look, GLANCE)
  glance.unref?.()
  api.event.on("message.updated", ({ properties: { info } }) => {
    if (info.role !== "user" || !isHubs(info.id) || told.has(info.id)) return
    told.add(info.id)
    if (!seen.has(info.sessionID) || info.sessionID === shown) return
    const title = api.state.session.get(info.sessionID)?.title ?? info.sessionID
    api.ui.toast({ title: "agenthub", message: `A message came to "${title}"`, variant: "info", duration: TOAST })
  })
}

export default import.meta.url.endsWith("/window.js") ? { id: "agenthub-window", tui } : { id: "agenthub", server }
