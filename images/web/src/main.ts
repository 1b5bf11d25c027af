import { open } from "./page";

void open();
