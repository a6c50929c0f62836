// Anthropic's SDK for Node as a caller: a question a line on standard input, an answer a line back.

import { createInterface } from "node:readline";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({
  baseURL: process.env.CALLER_BASE_URL,
  apiKey: "none",
  maxRetries: 0,
  timeout: 20_000,
});
const messages = [{ role: "user", content: "Hi" }];
const tools = [{ name: "get_weather", input_schema: { type: "object" } }];

const tell = (message, heard) => {
  heard.pieces = message.content.filter((b) => b.type === "text").map((b) => b.text);
  heard.calls = message.content.filter((b) => b.type === "tool_use").map((b) => [b.name, b.input]);
  heard.total_tokens = message.usage.input_tokens + message.usage.output_tokens;
};

const calls = {
  async unary({ model }, heard) {
    tell(await client.messages.create({ model, messages, max_tokens: 99 }), heard);
  },
  async stream({ model }, heard) {
    const stream = client.messages.stream({ model, messages, max_tokens: 99 });
    const pieces = [];
    stream.on("text", (text) => pieces.push(text));
    try {
      tell(await stream.finalMessage(), heard);
    } finally {
      heard.pieces = pieces;
    }
  },
  async stream_tools({ model }, heard) {
    const thinking = { type: "enabled", budget_tokens: 1024 };
    const asked = { model, messages, tools, thinking, max_tokens: 4000 };
    tell(await client.messages.stream(asked).finalMessage(), heard);
  },
  async count({ model }, heard) {
    heard.total_tokens = (await client.messages.countTokens({ model, messages })).input_tokens;
  },
  async models(_, heard) {
    for await (const model of client.models.list()) heard.pieces.push(model.id);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const heard = {
    pieces: [], calls: [], total_tokens: null, status: null, message: "", code: null,
  };
  try {
    await calls[asked.call](asked, heard);
  } catch (error) {
    if (!(error instanceof Anthropic.APIError)) throw error;
    Object.assign(heard, { status: error.status ?? null, message: error.message });
  }
  console.log(JSON.stringify(heard));
}
