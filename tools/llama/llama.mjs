// What llama.cpp makes of a GGUF file: tokens of texts, log-probabilities behind prompts, greedy answers. JSON in, JSON out.
import {readFileSync, writeFileSync} from "node:fs";
import {getLlama} from "node-llama-cpp";

const [asked, answered] = process.argv.slice(2);
const {model: path, texts, prompts, newTokens} = JSON.parse(readFileSync(asked, "utf8"));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", progressLogs: false});
const model = await llama.loadModel({modelPath: path});
const found = {tokens: texts.map((text) => [...model.tokenize(text, true)]), logp: [], answers: []};
if (prompts.length > 0) {
    const context = await model.createContext({contextSize: 512, flashAttention: false, threads: 1});
    const sequence = context.getSequence();
    for (const prompt of prompts) {
        await sequence.clearHistory();
        let given = prompt, answer = [], first = null;
        for (let n = 0; n < newTokens; n++) {
            const items = given.map((token, i) => i < given.length - 1 ? token
                : [token, {generateNext: {token: true, probabilities: true, options: {temperature: 0}}}]);
            const next = (await sequence.controlledEvaluate(items)).at(-1).next;
            first ??= [...next.probabilities.entries()];
            answer.push(next.token);
            if (model.isEogToken(next.token)) break;
            given = [next.token];
        }
        found.logp.push(first);
        found.answers.push(answer);
    }
}
writeFileSync(answered, JSON.stringify(found));
process.exit(0);
