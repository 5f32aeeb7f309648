"""`cron.*`: the job runner on hosts. Its commands are scripts of the built-in tree, deployed like any other."""
