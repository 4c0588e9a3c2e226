// Scenarios of the `openai` client for Node.js: `node client.mjs SCENARIO URL KEY` does one and
// prints what it saw as one line of JSON. What must be seen is said in test_openai_node_client.py.
import OpenAI from "openai";

const model = "google/gemma-3n-e4b-it";
const messages = [{ role: "user", content: "Count from 3 to 7." }];
// Bans the tokens that end an answer, so that only a limit does.
const logit_bias = JSON.parse(process.env.BANNED);
const long = { max_tokens: 2000, n: 8, logit_bias };

async function error(action) {
  try {
    await action();
  } catch (e) {
    const { status, code, param, type, message, requestID } = e;
    return { name: e.constructor.name, status, code, param, type, message, requestID };
  }
  return null;
}

const scenarios = {
  async create(client) {
    const { data, response, request_id } = await client.chat.completions
      .create({ model, messages, temperature: 0, logprobs: true, top_logprobs: 2 })
      .withResponse();
    const inference_id = response.headers.get("x-inference-id");
    return { status: response.status, data, request_id, inference_id };
  },

  async stream(client) {
    const stream = await client.chat.completions.create({
      model, messages, seed: 5, stream: true, stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    const whole = await client.chat.completions.create({ model, messages, seed: 5 });
    return { chunks, whole };
  },

  async helper(client) {
    const runner = client.chat.completions.stream({
      model, messages, n: 2, temperature: 0, stream_options: { include_usage: true },
    });
    let heard = "";
    runner.on("content", (piece) => (heard += piece));
    const final = await runner.finalChatCompletion();
    return { final, heard, usage: await runner.totalUsage() };
  },

  async completions(client) {
    const body = { model, prompt: "One two three", max_tokens: 8, temperature: 0, logit_bias };
    const whole = await client.completions.create(body);
    let text = "";
    for await (const chunk of await client.completions.create({ ...body, stream: true }))
      text += chunk.choices[0].text;
    return { whole, text };
  },

  async models(client) {
    const ids = [];
    for await (const found of client.models.list()) ids.push(found.id);
    return { ids, one: await client.models.retrieve(model) };
  },

  async errors(client) {
    const create = (fields) => () =>
      client.chat.completions.create({ model, messages, ...fields });
    const stranger = client.withOptions({ apiKey: "wrong" });
    return {
      key: await error(() => stranger.chat.completions.create({ model, messages })),
      range: await error(create({ temperature: 200 })),
      streamed: await error(create({ stream: true, top_p: 7 })),
      model: await error(create({ model: "gpt-4" })),
      context: await error(create({ messages: [{ role: "user", content: "x ".repeat(99999) }] })),
      image: await error(create({
        messages: [{ role: "user", content: [
          { type: "text", text: "what is it?" },
          { type: "image_url", image_url: { url: "data:image/png;base64,AA==" } },
        ] }],
      })),
      route: await error(() => client.get("/nothing")),
    };
  },

  async failed_stream(client) {
    const pieces = [];
    const failure = await error(async () => {
      const stream = await client.chat.completions.create({ model, messages, stream: true });
      for await (const chunk of stream) pieces.push(chunk.choices[0].delta.content ?? "");
    });
    return { pieces, failure };
  },

  async abort_by_break(client) {
    const stream = await client.chat.completions.create({ model, messages, stream: true, ...long });
    let count = 0;
    for await (const _ of stream) if (++count === 3) break;
    return { count };
  },

  async abort_by_controller(client) {
    const stop = new AbortController();
    const body = { model, messages, ...long };
    setTimeout(() => stop.abort(), 300);
    return error(() => client.chat.completions.create(body, { signal: stop.signal }));
  },

  async abort_helper(client) {
    const runner = client.chat.completions.stream({ model, messages, ...long });
    runner.once("content", () => runner.abort());
    return error(() => runner.done());
  },
};

const [name, baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
console.log(JSON.stringify(await scenarios[name](client)));
