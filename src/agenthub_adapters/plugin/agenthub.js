// The agenthub plugin: makes an OpenCode process an endpoint of the hub, as docs/endpoint.md says. It imports nothing and
// waits for nothing, and where it fails OpenCode goes on as if it were not there. It is installed twice: OpenCode wants
// the half beside the server and the half that looks at the screen, the copy called window.js, as two modules.

const PROTOCOL = 1
const VERSION = 1
const PATIENCE = 2_000 // ms in which a prompt has its place and its turn begins, or it never will
const MESSAGE = /^msg_[0-9a-f]{12}AgHub/ // the hub's own prompts are known by their ids
const SIGNED = { send_message: "from", resolve_thread: "from", get_messages: "agent", register_agent: "id" }
const SIGNED_IF_GIVEN = ["from", "agent", "agentId", "createdBy"]

const [{ EventEmitter, once }, fs, http, os] = ["events", "fs", "http", "os"].map(process.getBuiltinModule)
const inEvent = (event, object) => `event: ${event}\ndata: ${JSON.stringify(object)}\n\n`

/** The same function, but when it fails its caller goes on. */
function harmless(act) {
  return (...given) => {
    try {
      return act(...given)
    } catch {}
  }
}

/** What the hub connects to, one for the whole process: what is known of its sessions, and of the calls they make. */
class Endpoint {
  hub = process.env.AGENT_HUB_DIR || `${os.homedir()}/.agent-hub`
  path = `${this.hub}/run/${process.pid}.sock`
  users = new Map() // by directory, the newest call of server()
  #sessions = new Map() // by id, the one changed last at the end
  #parents = new Map() // by the id of a subagent's session
  #rootOf = (id) => (this.#parents.has(id) ? this.#rootOf(this.#parents.get(id)) : id)
  #asking = new Map() // the session that asks its user, by the id of the request
  #shown // the id of the session on screen, or null; undefined where there is no screen
  #agents = {} // by session, as the hub wrote them down last
  #calls = new Map() // of the hub's tools that are under way, by id
  #placed = new EventEmitter() // emits the id of a prompt that has its place in its session
  #streams = new Set()

  constructor() {
    const window = new BroadcastChannel("agenthub")
    window.onmessage = ({ data }) => data.shown !== this.#shown && this.#show(data.shown)
    window.unref()
    setInterval(this.listen, 1_000).unref() // the hub may come later, or anew
    setInterval(() => this.#say(": alive\n\n"), 10_000).unref()
  }

  listen = harmless(() => {
    if (!this.users.size || !fs.existsSync(this.hub) || (this.server && fs.existsSync(this.path))) return
    if (Buffer.byteLength(this.path) > 103) return // which not every system takes for a socket
    this.close() // also removes what an earlier process with this id has left
    fs.mkdirSync(`${this.hub}/run`, { recursive: true, mode: 0o700 })
    this.server = http.createServer((request, response) => this.#answer(request, response)).unref()
    this.server.on("error", () => this.close()).listen(this.path)
  })

  close() {
    for (const stream of this.#streams) stream.end()
    this.server?.close()
    fs.rmSync(this.path, { force: true })
  }

  hear({ type, properties: { sessionID: id, info, status, part, ...request } }) {
    if (/^session\.(created|updated|deleted)$/.test(type)) this.#describe(id, info, type)
    if (type === "session.status") this.#work(id, status.type !== "idle")
    if (type === "session.compacted" && this.#sessions.has(id)) this.#say(inEvent("compacted", { id }))
    if (type === "message.updated" && info.role === "assistant") this.#step(id, info)
    if (/^(completed|error)$/.test(part?.state?.status)) this.#calls.delete(part.callID)
    if (/^(permission|question)\.asked$/.test(type)) this.#asking.set(request.id, id)
    if (/^(permission|question)\.re/.test(type)) this.#asking.delete(request.requestID) // replied or rejected
    this.#changed(this.#rootOf(id))
  }

  #describe(id, { parentID, agent, model }, type) {
    if (parentID) this.#parents.set(id, parentID)
    if (type === "session.created") this.#live(id, { opened: Date.now() })
    if (this.#sessions.has(id)) this.#live(id, { agent, model })
    if ((parentID || type === "session.deleted") && this.#sessions.delete(id)) this.#say(inEvent("gone", { id }))
  }

  /** A turn is at work; or it has ended, and asks no more, though nobody may have answered. */
  #work(id, working) {
    if (working || this.#sessions.has(id)) this.#live(id, { working, startsBy: 0 })
    for (const [request, asker] of this.#asking) if (asker === id && !working) this.#asking.delete(request)
  }

  /** A step has come to its end. One that did so before its session lived here is a copy, in a fork. */
  #step(sessionID, { id: message, parentID, time, tokens, cost }) {
    const id = this.#rootOf(sessionID)
    const step = { id, message, parent: id === sessionID ? parentID : null, tokens, cost }
    if (time.completed >= this.#sessions.get(id)?.since) this.#say(inEvent("step", step))
  }

  /** A prompt has its place in a session. The parts of its user's own are not all made up by OpenCode. */
  prompted(id, messageID, parts) {
    this.#placed.emit(messageID)
    if (/^msg_[0-9a-f]{12}AgTld/.test(messageID)) return this.#live(id) // the hub's, too, and wakes nobody
    const typed = !MESSAGE.test(messageID) && !parts.every((part) => part.synthetic)
    this.#live(id, { startsBy: Date.now() + PATIENCE, ...(typed && { used: Date.now() }) })
    setTimeout(() => this.#changed(id), PATIENCE).unref()
  }

  #show(id) {
    this.#shown = id
    if (id) this.#live(id, { opened: Date.now() })
    for (const each of this.#sessions.keys()) this.#changed(each)
  }

  /** A session lives here, with something new. */
  #live(id, news) {
    if (this.#parents.has(id)) return
    const session = this.#sessions.get(id) ?? { used: 0, opened: 0, since: Date.now() }
    this.#sessions.delete(id)
    this.#sessions.set(id, Object.assign(session, news))
    const dull = (each) => each !== id && each !== this.#shown && this.#stateOf(each) === "idle"
    if (this.#sessions.size > 1000) this.#sessions.delete([...this.#sessions.keys()].find(dull))
    this.#changed(id)
  }

  #changed(id) {
    const session = this.#sessions.get(id)
    if (!session) return
    const { used, opened, agent, model, text } = session
    const shown = this.#shown === undefined ? null : this.#shown === id
    session.told = { id, state: this.#stateOf(id), used, opened, shown, agent, model }
    session.text = inEvent("session", session.told)
    if (session.text !== text) this.#say(session.text)
  }

  #stateOf(id) {
    if ([...this.#asking.values()].some((asker) => this.#rootOf(asker) === id)) return "waiting"
    const { working, startsBy } = this.#sessions.get(id) ?? {}
    return working || Date.now() < startsBy ? "busy" : "idle"
  }

  /** Write into a call of a hub's tool who calls: the session's agent, as the hub has written it down, or its id. */
  sign({ tool: prefixed, callID, sessionID }, args) {
    const tool = prefixed.replace(/^agent-hub_/, "")
    if (tool === prefixed) return
    const file = `${this.hub}/session_agents.json`
    const at = harmless(() => fs.statSync(file).mtimeMs)() // it holds every session that there ever was
    if (at !== this.#agents.at) this.#agents = { at, ...harmless(() => JSON.parse(fs.readFileSync(file)))() }
    const session = this.#rootOf(sessionID)
    const name = this.#agents[session]?.agentId ?? session
    if (SIGNED[tool]) args[SIGNED[tool]] = name
    else if (tool !== "search_messages") for (const key of SIGNED_IF_GIVEN) if (key in args) args[key] = name
    this.#calls.set(callID, { tool, name, session })
  }

  async #claim({ tool, name }) {
    const [callID, call] = [...this.#calls].find(([, call]) => call.tool === tool && call.name === name) ?? []
    if (!this.#calls.delete(callID)) return [404, { error: "no such call" }]
    const { data } = await this.client.session.get({ path: { id: call.session } })
    return [200, { session: call.session, slug: data.slug, directory: data.directory }]
  }

  async #answer(request, response) {
    const route = `${request.method} ${request.url}`
    if (route === "GET /events") {
      this.#streams.add(response.on("close", () => this.#streams.delete(response)))
      return response.writeHead(200, { "content-type": "text/event-stream" }).write(inEvent("hello", this.#hello()))
    }
    const [status, object] = await this.#decide(route, request).catch((error) => [500, { error: String(error) }])
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(object))
  }

  async #decide(route, request) {
    if (route === "GET /") return [200, this.#hello()]
    const [, id] = route.match(/^POST \/sessions\/(\w+)\/prompts$/) ?? []
    if (!id && route !== "POST /claim") return [501, { error: "no such request" }]
    const sent = Buffer.concat(await request.toArray()) // all of it, or nobody would read the answer
    if (sent.length > 64_000_000) return [413, { error: "more than 64 MB" }]
    const body = harmless(JSON.parse)(sent)
    if (body?.constructor !== Object) return [400, { error: "no JSON object" }]
    return id ? this.#prompt(id, body) : this.#claim(body)
  }

  /** Hand over prompts, each once the one before has its place in the session: it might overtake that. */
  async #prompt(id, { prompts, before }) {
    for (const [accepted, body] of prompts.entries()) {
      const refused = (status, error) => [200, { accepted, refused: { status, error } }]
      const state = this.#stateOf(id)
      if (Date.now() > before) return refused(408, "it is too late")
      if (state === "waiting" || (body.noReply && state !== "idle")) return refused(409, `it is ${state}`)
      const placed = once(this.#placed, body.messageID, { signal: AbortSignal.timeout(PATIENCE) }).catch(() => {})
      const { error, response } = await this.client.session.promptAsync({ path: { id }, body })
      if (error) return refused(response.status, error.data?.message ?? JSON.stringify(error))
      await placed
    }
    return [200, { accepted: prompts.length }]
  }

  #hello() {
    const sessions = [...this.#sessions.values()].map(({ told }) => told)
    return { protocol: PROTOCOL, plugin: VERSION, pid: process.pid, sessions }
  }

  #say(text) {
    for (const stream of this.#streams) {
      if (stream.writableLength < 1_000_000) stream.write(text)
      else stream.destroy() // its listener does not read
    }
  }
}

/** The half beside the server: OpenCode calls it for each directory, and anew when it has read its settings again. */
async function server({ client, directory }) {
  globalThis.agenthub ??= new Endpoint() // though this file may be installed twice
  const endpoint = globalThis.agenthub
  const hook = (act) => harmless((...given) => endpoint.users.get(directory) === hook && act(...given))
  endpoint.users.set(directory, hook)
  endpoint.client = client
  endpoint.listen()
  return {
    event: hook(({ event }) => endpoint.hear(event)),
    "chat.message": hook(({ sessionID }, { message, parts }) => endpoint.prompted(sessionID, message.id, parts)),
    "tool.execute.before": hook((call, { args }) => endpoint.sign(call, args)),
    dispose: hook(() => endpoint.users.delete(directory) && endpoint.users.size === 0 && endpoint.close()),
  }
}

/** The half that looks at the screen: tells what is on it, and of messages to sessions that are there no more. */
async function tui(api) {
  const [seen, announced] = [new Set(), new Set()]
  const server = new BroadcastChannel("agenthub")
  let shown
  const look = harmless(() => {
    const { name, params } = api.route.current
    shown = name === "session" ? params.sessionID : null
    seen.add(shown)
    server.postMessage({ shown })
  })
  const keyOfTheList = harmless(() => {
    const bindings = api.keymap.getCommandBindings({ visibility: "registered", commands: ["session.list"] })
    return api.keys.formatBindings(bindings.get("session.list"))
  })
  const announce = harmless(({ properties: { sessionID, info } }) => {
    if (!MESSAGE.test(info.id) || announced.has(info.id)) return
    announced.add(info.id)
    if (sessionID === shown || !seen.has(sessionID)) return
    const { title } = api.state.session.get(sessionID)
    const message = `A message came to "${title}". ${keyOfTheList() || "/sessions"} opens the list of sessions.`
    api.ui.toast({ title: "agenthub", message, variant: "info", duration: 8_000 })
  })
  server.unref()
  setInterval(look, 200).unref() // sooner than a person reads
  api.event.on("message.updated", announce)
}

export default import.meta.url.endsWith("/window.js") ? { id: "agenthub-window", tui } : { id: "agenthub", server }
